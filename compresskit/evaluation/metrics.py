"""Metrics: what a row of METRICS says of a model over batches, with its 95 % interval, its direction and its scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import nn

from ..core.drops import parse_drop
from ..core.errors import CompresskitError, InputError, described
from ..core.registry import is_reference
from ..core.tensors.batches import count_examples, map_tensors, tensors_of
from ..core.tensors.dtypes import widened
from ..core.tensors.modules import evaluating
from ..core.types import Inputs, call, main_output, to_device
from ..core.user_code import in_memory
from .accumulators import Accumulator, accumulator
from .intervals import Score as Score, interval as interval
from .losses import with_arguments
from .metric_terms.embeddings import embeddings
from .structures import in_columns
from .tables import METRICS
from .tasks import shape_text

Scale = Literal["share", "own"]


class Metric:
    """A named metric over a model and batches of (inputs, targets).

    Args:
        name: what reports call it.
        row: of METRICS: a function of an example or of a data set, or a class with update and compute.
        original: the model that a metric without labels compares with.

    Attributes:
        higher_is_better: the direction.
        scale: "share" for values from 0 to 1, "own" for others.
        compares_original: whether it needs the original model, and no labels.
        takes_module: whether it runs the model itself, on data of its own.
    """

    def __init__(self, name: str, row: Callable[..., Any], original: nn.Module | None = None):
        self.name = name
        self.higher_is_better = bool(getattr(row, "higher_is_better", True))
        self.scale: Scale = getattr(row, "scale", "own")
        self.takes_module = bool(getattr(row, "takes_module", False))
        self._row, self._chance = row, getattr(row, "chance", None)
        self._whole = bool(getattr(row, "whole_outputs", False))
        self._embeds = bool(getattr(row, "embeds", False))
        self.compares_original = bool(getattr(row, "compares_original", False))
        self._original = original if self.compares_original else None

    def against(self, original: nn.Module) -> Metric:
        """The same metric, comparing with another model where it compares."""
        return Metric(self.name, self._row, original)

    def __call__(self, module: nn.Module, batches: Iterable, device: torch.device | None = None) -> Score:
        """The metric and its interval over all batches, the module in eval mode.

        Raises:
            InputError: if the model returns NaN, there are no examples, or the metric does not fit.
        """
        if self.takes_module:
            return self._of_module(module)
        found = accumulator(self._row, self.name)
        self._fill(found, module, batches, device)
        return self._guarded(found.score)

    def value(self, module: nn.Module, batches: Iterable, device: torch.device | None = None) -> float:
        """The metric alone, where nobody asks for an interval; raises as a call does."""
        if self.takes_module:
            return self._of_module(module).value
        found = accumulator(self._row, self.name, intervals=False)
        self._fill(found, module, batches, device)
        return float(self._guarded(found.value))

    @torch.no_grad()
    def _of_module(self, module: nn.Module) -> Score:
        def score() -> Score:
            found = self._row(module)
            return found if isinstance(found, Score) else Score(float(found), float(found), float(found), 0)

        with evaluating(module):
            return self._guarded(score)

    @torch.no_grad()
    def _fill(self, found: Accumulator, module: nn.Module, batches: Iterable, device: torch.device | None) -> None:
        empty = True
        with evaluating(*(model for model in (module, self._original) if model is not None)):
            for number, (inputs, targets) in enumerate(batches):
                if device is not None:
                    inputs, targets = to_device(inputs, device), to_device(targets, device)
                outputs = self._outputs(module, inputs)
                if any(bool(torch.isnan(tensor).any()) for tensor in tensors_of(outputs) if tensor.is_floating_point()):
                    raise InputError(f"the model's output holds NaN on evaluation batch {number}")
                if self._original is not None:
                    targets = self._outputs(self._original, inputs)
                self._guarded(found.add, outputs, targets)
                empty = False
        if empty:
            raise InputError("there are no examples to evaluate on")

    def _outputs(self, module: nn.Module, inputs: Inputs) -> Any:
        outputs = call(module, inputs)
        if self._embeds:
            return embeddings(outputs, inputs)
        if not self._whole:
            return widened(main_output(outputs))
        return map_tensors(in_columns(outputs, count_examples(inputs)), widened)

    def _guarded(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except CompresskitError:
            raise
        except Exception as error:  # a metric may be anybody's code
            given = " and targets ".join(shape_text(argument) for argument in arguments)
            fits = f"does not fit outputs {given}" if given else "does not compute"
            raise InputError(f"metric {self.name!r} {fits}: {described(error)}") from error

    def chance(self, classes: int | None) -> float | None:
        """What a guess among so many classes scores; None where that is not known."""
        known = self._chance
        if known is None or isinstance(known, float | int):
            return known
        return known(classes) if classes and classes > 1 else None

    def beats_chance(self, low: float, high: float, classes: int | None) -> bool:
        """Whether an interval of the metric lies on the better side of a guess, or what that scores is not known."""
        chance = self.chance(classes)
        return chance is None or (low > chance if self.higher_is_better else high < chance)

    def drop(self, before: float, after: float) -> float:
        """How much worse `after` is than `before`; negative where it is better."""
        return before - after if self.higher_is_better else after - before

    def allowed_drop(self, given: float | str, before: float) -> float:
        """How much of the metric may be lost, in its own unit.

        Args:
            given: as options have it, a number or percent.
            before: the original model's value.
        """
        return parse_drop(given).of(before, self.scale)


def make_metric(string: str, original: nn.Module | None = None, arguments: Mapping[str, Any] | None = None) -> Metric:
    """The metric a string names: a row of METRICS, or a user's own as `file.py:name` or `package.module:name`.

    Args:
        string: the name.
        original: the model that a metric without labels compares with.
        arguments: of the row, beside outputs and targets.
    Raises:
        InputError: naming the nearest valid name, or the nearest valid argument.
    """
    try:
        found = METRICS.load(string)
    except ValueError as error:
        raise InputError(str(error)) from error
    leave = 0 if isinstance(found, type) else 1 if getattr(found, "takes_module", False) else 2
    row = with_arguments(found, arguments or {}, f"metric_arg of metric {string!r}", leave=leave)
    if in_memory.is_in_memory(string):
        return Metric(in_memory.label(string), row, original)
    return Metric(string.rpartition(":")[2] if is_reference(string) else string, row, original)
