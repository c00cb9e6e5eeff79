"""The loss of a distillation: weighted terms against the teacher, and the data's own targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from ..core.types import Inputs, call, main_output
from ..evaluation.loss_terms.own import answering
from ..evaluation.loss_terms.shapes import class_axis
from ..evaluation.losses import Loss, run_with_loss, takes_module, task_loss
from .losses.logits import hard_targets
from .losses.term import DistillationBatch, Term, total
from .matching.matching import Pair
from .matching.taps import CapturedFeatures, attention_watched, tapped
from .models import Teacher


@dataclass(frozen=True)
class WeightedTerm:
    """A loss of the table, made for two models, with its weight in the sum.

    Attributes:
        weight: at the end of the training.
        first: how many times as large the weight is at the beginning; it falls linearly.
    """

    name: str
    weight: float
    term: Term
    first: float = 1.0

    def weight_at(self, progress: float) -> float:
        """The weight when a share of the training is done, 0 to 1."""
        return self.weight * (self.first + (1 - self.first) * progress)


@dataclass(frozen=True)
class Taps:
    """Where features are taken out of the two models.

    Attributes:
        pairs: matched stages.
        classifiers: layers of (student, teacher) whose inputs are the embeddings; None takes the last stage, pooled.
        attention: indices of matched attention calls.
        needs: which signals any loss asks for.
    """

    pairs: Sequence[Pair] = ()
    classifiers: tuple[str | None, str | None] = (None, None)
    attention: Sequence[tuple[int, int]] = ()
    needs: frozenset[str] = frozenset()

    def layers(self, side: str) -> list[str]:
        """Names of the tapped layers of one side."""
        if not self.needs & {"features", "before_relu", "embeddings"}:
            return []
        return [getattr(pair, side).name for pair in self.pairs]


class Cache(Protocol):
    """Gives logits of rows that it has, and computes the others."""

    def __call__(self, inputs: Inputs, rows: Tensor, compute: Callable[[Inputs], Tensor]) -> Tensor:
        """Logits of a batch."""
        ...


class Objective:
    """Callable as the training loop wants it: (student, inputs, targets) -> loss.

    Args:
        teacher: the teachers.
        terms: what to add up.
        taps: where features are taken.
        task_weight: weight of the loss against the data's own targets; 0 never looks at them.
        label_smoothing: of the loss against the targets.
        task_loss: the loss against the targets; None goes by their kind.
        cache: keeps the teacher's logits; only for losses on logits.
        rows: (indices, step) -> their rows in the cache.
    """

    def __init__(
        self,
        teacher: Teacher,
        terms: Sequence[WeightedTerm],
        *,
        task_weight: float,
        taps: Taps = Taps(),
        label_smoothing: float = 0.0,
        task_loss: Loss | None = None,
        cache: Cache | None = None,
        rows: Callable[[Tensor, int], Tensor] = lambda indices, step: indices,
    ):
        self._teacher, self._terms, self._taps = teacher, list(terms), taps
        self._task_weight, self._label_smoothing = task_weight, label_smoothing
        self._task_loss = task_loss
        self._cache, self._rows_of = cache, rows
        self._rows: Tensor | None = None
        self._indices: Tensor | None = None
        self._progress = 0.0
        self.parts: Mapping[str, Tensor] = {}

    @property
    def adapters(self) -> list[nn.Module]:
        """Modules that are trained along."""
        return [adapter for weighted in self._terms for adapter in weighted.term.adapters]

    @property
    def leaves_layers_out(self) -> bool:
        """Whether the layers above the tapped ones may get no gradient."""
        return self._task_weight == 0

    def begin_step(self, indices: Tensor, step: int, total_steps: int) -> None:
        """Called by the training loop before each batch."""
        self._indices, self._progress = indices, step / total_steps
        self._rows = self._rows_of(indices, step)

    def memory(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs and nobody trains; called by the training loop at a checkpoint."""
        return {
            f"{weighted.name}.{name}": value
            for weighted in self._memories()
            for name, value in _flushed(weighted).items()
        }

    def recall(self, tensors: Mapping[str, Tensor]) -> None:
        """Undo `memory`."""
        for weighted in self._memories():
            prefix = f"{weighted.name}."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            if weighted.term.memory is not None:
                weighted.term.memory.load_state_dict(own)

    def _memories(self) -> list[WeightedTerm]:
        return [weighted for weighted in self._terms if weighted.term.memory is not None]

    def __call__(self, module: nn.Module, inputs: Inputs, targets: Any) -> Tensor:
        signals = self.signals(module, inputs, targets)
        losses: dict[str, Tensor] = {}
        if signals.task_loss is not None:
            losses["task"] = self._task_weight * signals.task_loss
        for weighted in self._terms:
            if weighted.weight:
                losses[weighted.name] = weighted.weight_at(self._progress) * weighted.term.compute(signals)
        if not losses:
            raise InputError("all weights are 0, so there is nothing to learn from; raise loss_weight or task_weight")
        self.parts = {name: loss.detach() for name, loss in losses.items()} if len(losses) > 1 else {}
        return total(losses.values())

    def signals(self, module: nn.Module, inputs: Inputs, targets: Any) -> DistillationBatch:
        """Run both models on a batch and take out what the losses need."""
        gradients = "gradients" in self._taps.needs
        if gradients:
            if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
                raise InputError("loss at_gradient needs one floating-point tensor as input")
            inputs = inputs.detach().requires_grad_()
        (outputs, task), mine, my_attention = self._run(
            lambda: self._student(module, inputs, targets), module, "student"
        )
        answer = logits_of(outputs)
        if self._cache is not None and self._rows is not None:
            with torch.no_grad():
                taught, theirs = self._cache(inputs, self._rows, self._teacher), CapturedFeatures()
                their_attention: list = []
        else:
            with torch.set_grad_enabled(gradients):
                taught, theirs, their_attention = self._run(
                    lambda: self._teacher(inputs), self._teacher.modules[0], "teacher"
                )
        taught = logits_of(taught)
        found = DistillationBatch(
            answer, taught.detach(), targets, self._indices, progress=self._progress, outputs=outputs,
            task_loss=task,
        )  # fmt: skip
        names = list(zip(self._taps.layers("student"), self._taps.layers("teacher"), strict=True))
        if theirs.outputs:
            found.features = [(mine.outputs[a], theirs.outputs[b].detach()) for a, b in names]
            found.before_relu = [(mine.before_relu[a], theirs.before_relu[b].detach()) for a, b in names]
        if "embeddings" in self._taps.needs:
            found.embeddings = (_embedding(mine, names, 0), _embedding(theirs, names, 1).detach())
        found.attention = [(my_attention[a], their_attention[b]) for a, b in self._taps.attention]
        if gradients and isinstance(inputs, Tensor):
            found.gradients = (
                _input_gradient(answer, targets, inputs, keep_graph=True),
                _input_gradient(taught, targets, inputs, keep_graph=False),
            )
        return found

    def _student(self, module: nn.Module, inputs: Inputs, targets: Any) -> tuple[Any, Tensor | None]:
        """(outputs, loss against the targets) of the student; no targets are looked at where they have no weight."""
        if not self._task_weight or targets is None:
            with answering(module) if takes_module(self._task_loss) else nullcontext():
                return call(module, inputs), None
        return run_with_loss(module, inputs, targets, self._task_loss, self._label_smoothing)

    def _run(self, forward: Callable[[], Any], module: nn.Module, side: str) -> tuple[Any, CapturedFeatures, list]:
        relu_inputs: Literal["keep", "skip"] = "keep" if "before_relu" in self._taps.needs else "skip"
        classifier = self._taps.classifiers[side == "teacher"] if "embeddings" in self._taps.needs else None
        with ExitStack() as stack:
            taken = stack.enter_context(tapped(module, self._taps.layers(side), classifier, relu_inputs))
            attention = stack.enter_context(attention_watched()) if "attention" in self._taps.needs else []
            answer = forward()
        return answer, taken, attention


def logits_of(outputs: Any) -> Tensor:
    """The main output with the classes of maps on the last axis, where losses on logits look for them."""
    found = main_output(outputs)
    return found.movedim(class_axis(tuple(found.shape)), -1) if found.dim() > 3 else found


def _flushed(weighted: WeightedTerm) -> dict[str, Tensor]:
    memory = weighted.term.memory
    if memory is None:
        return {}
    memory.flush()
    return memory.state_dict()


def _embedding(taken: CapturedFeatures, names: list[tuple[str, str]], side: int) -> Tensor:
    """The classifier's input, or the last stage averaged over its places."""
    if taken.embedding is not None:
        return taken.embedding.flatten(1)
    last = taken.outputs[names[-1][side]]
    return last.flatten(2).mean(2) if last.dim() == 4 else last.reshape(len(last), -1, last.shape[-1]).mean(1)


def _input_gradient(logits: Tensor, targets: Any, inputs: Tensor, *, keep_graph: bool) -> Tensor:
    loss = task_loss(logits, hard_targets(targets, "at_gradient"))
    # summed over the batch, so that an example's gradient does not shrink with the batch size
    (gradient,) = torch.autograd.grad(loss * len(inputs), inputs, create_graph=keep_graph, retain_graph=True)
    return gradient
