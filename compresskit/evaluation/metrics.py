"""Metrics: one value an example, so that every figure comes with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.errors import InputError, described
from ..core.registry import is_reference
from ..core.tensors.dtypes import widened
from ..core.tensors.modules import evaluating
from ..core.types import call, main_output, to_device
from ..core.user_code import in_memory
from .tables import METRICS

_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Score:
    """A metric's mean with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    samples: int


def top1(outputs: Tensor, targets: Tensor) -> Tensor:
    """(batch, classes), (batch,) -> (batch,) of 0 and 1."""
    _check_classes(targets, "top1")
    return (outputs.argmax(-1) == targets).float()


def top5(outputs: Tensor, targets: Tensor) -> Tensor:
    """(batch, classes), (batch,) -> (batch,) of 0 and 1."""
    _check_classes(targets, "top5")
    best = outputs.topk(min(5, outputs.shape[-1]), dim=-1).indices
    return (best == targets.unsqueeze(-1)).any(-1).float()


def _check_classes(targets: Tensor, metric: str) -> None:
    if targets.is_floating_point():
        raise InputError(f"metric {metric!r} compares classes, and the targets are floats; choose mse")


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """(batch, ...), the same -> (batch,), each the mean squared error of one example."""
    if outputs.shape != targets.shape and outputs.numel() == targets.numel():
        outputs = outputs.reshape(targets.shape)
    return (outputs - targets).pow(2).reshape(len(outputs), -1).mean(1)


vars(mse)["higher_is_better"] = False


def agreement(outputs: Tensor, original_outputs: Tensor) -> Tensor:
    """(batch, classes) twice -> (batch,) of 0 and 1: same highest logit."""
    return (outputs.argmax(-1) == original_outputs.argmax(-1)).float()


vars(agreement)["compares_original"] = True


class Metric:
    """A named metric over a model and batches of (inputs, targets).

    Args:
        name: what reports call it.
        per_example: (outputs, targets) -> one value an example.
        original: the model that `agreement` compares with.
    """

    def __init__(self, name: str, per_example: Callable[[Tensor, Tensor], Tensor], original: nn.Module | None = None):
        self.name = name
        self.higher_is_better = getattr(per_example, "higher_is_better", True)
        self._per_example = per_example
        self._original = original if getattr(per_example, "compares_original", False) else None

    @torch.no_grad()
    def __call__(self, module: nn.Module, batches: Iterable, device: torch.device | None = None) -> Score:
        """Mean and interval over all batches, the module in eval mode.

        Raises:
            InputError: if the model returns NaN, or there are no examples.
        """
        values = []
        with evaluating(*(model for model in (module, self._original) if model is not None)):
            for number, (inputs, targets) in enumerate(batches):
                if device is not None:
                    inputs, targets = to_device(inputs, device), to_device(targets, device)
                outputs = widened(main_output(call(module, inputs)))
                if torch.isnan(outputs).any():
                    raise InputError(f"the model's output holds NaN on evaluation batch {number}")
                if self._original is not None:
                    targets = widened(main_output(call(self._original, inputs)))
                values.append(self._values(outputs, targets).double().cpu())
        if not values:
            raise InputError("there are no examples to evaluate on")
        return interval(torch.cat(values))

    def _values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        try:
            values = self._per_example(outputs, targets)
        except InputError:
            raise
        except Exception as error:  # a metric may be anybody's code
            shape = list(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            raise InputError(
                f"metric {self.name!r} does not fit outputs {list(outputs.shape)} and targets {shape}: "
                f"{described(error)}"
            ) from error
        if not isinstance(values, Tensor) or values.shape != (len(outputs),):
            raise InputError(f"metric {self.name!r} must return one value an example, ({len(outputs)},)")
        return values

    def drop(self, before: float, after: float) -> float:
        """How much worse `after` is than `before`; negative where it is better."""
        return before - after if self.higher_is_better else after - before


def interval(values: Tensor) -> Score:
    """Mean and 95 % interval: Wilson's for zeros and ones, normal otherwise.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
    """
    n, mean = len(values), float(values.mean())
    if bool(((values == 0) | (values == 1)).all()):
        centre = (mean + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
        half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(mean * (1 - mean) / n + _Z95**2 / (4 * n * n))
    else:
        centre, half = mean, _Z95 * float(values.std()) / math.sqrt(n) if n > 1 else 0.0
    return Score(mean, centre - half, centre + half, n)


def make_metric(string: str, original: nn.Module | None = None) -> Metric:
    """The metric a string names: a row of METRICS, or a user's own as `file.py:name` or `package.module:name`.

    Raises:
        InputError: naming the nearest valid name.
    """
    try:
        found = METRICS.load(string)
    except ValueError as error:
        raise InputError(str(error)) from error
    if in_memory.is_in_memory(string):
        return Metric(in_memory.label(string), found, original)
    return Metric(string.rpartition(":")[2] if is_reference(string) else string, found, original)
