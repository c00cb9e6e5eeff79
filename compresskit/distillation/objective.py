"""The loss of a distillation: weighted terms against the teacher, and the data's own targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..core.task import task_loss
from ..core.types import Inputs, call, main_output
from .losses.term import Signals, Term


@dataclass
class WeightedTerm:
    name: str
    weight: float
    term: Term


class Objective:
    """Callable as the training loop wants it: (student, inputs, targets) -> loss.

    Args:
        teacher: inputs -> logits.
        terms: what to add up.
        task_weight: weight of the loss against the data's own targets; 0 never looks at them.
        label_smoothing: of the loss against the targets.
    """

    def __init__(
        self,
        teacher: Callable[[Inputs], Tensor],
        terms: list[WeightedTerm],
        *,
        task_weight: float,
        label_smoothing: float = 0.0,
    ):
        self._teacher = teacher
        self._terms = terms
        self._task_weight = task_weight
        self._label_smoothing = label_smoothing
        self._indices: Tensor | None = None
        self._progress = 0.0
        self.parts: Mapping[str, float] = {}

    @property
    def adapters(self) -> list[nn.Module]:
        """Modules that are trained along."""
        return [adapter for weighted in self._terms for adapter in weighted.term.adapters]

    def begin_step(self, indices: Tensor, step: int, total_steps: int) -> None:
        """Called by the training loop before each batch."""
        self._indices, self._progress = indices, step / total_steps

    def __call__(self, module: nn.Module, inputs: Inputs, targets: Any) -> Tensor:
        taught = self._teacher(inputs)
        student = main_output(call(module, inputs))
        signals = Signals(student, taught, targets, self._indices, progress=self._progress)
        losses: dict[str, Tensor] = {}
        if self._task_weight:
            losses["task"] = self._task_weight * task_loss(student, targets, self._label_smoothing)
        for weighted in self._terms:
            losses[weighted.name] = weighted.weight * weighted.term.compute(signals)
        self.parts = {name: loss.item() for name, loss in losses.items()} if len(losses) > 1 else {}
        return sum(losses.values())
