"""Metrics of torchmetrics as rows: fitted to outputs and targets, their states kept by groups of examples."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, require
from ...core.tensors.batches import count_examples, pick

_GROUPS_A_BATCH = 64  # an update costs the same for one example and for ten


class LibraryMetric:
    """A metric of torchmetrics, made at the first batch; a row of METRICS says how by `make` and `prepare`.

    The state of each group of examples is kept, so that groups can be resampled without their outputs.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993.
    """

    higher_is_better = True
    scale = "share"

    def __init__(self) -> None:
        self._metric: Any = None
        self._states: list[dict[str, Any]] = []

    def make(self, outputs: Any, targets: Any) -> Any:
        """The torchmetrics.Metric for outputs and targets like these."""
        raise NotImplementedError

    def prepare(self, outputs: Any, targets: Any) -> tuple[Any, ...]:
        """The arguments of its update."""
        return outputs, targets

    def update(self, outputs: Any, targets: Any) -> None:
        """Take a batch in, a group of examples at a time."""
        if self._metric is None:
            self._metric = self.make(outputs, targets).to(_device_of(outputs))
        count = count_examples(outputs)
        for indices in torch.arange(count).chunk(min(count, _GROUPS_A_BATCH)):
            self._metric.reset()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of classes that a few examples lack
                self._metric.update(*self.prepare(pick(outputs, indices), pick(targets, indices)))
            self._states.append({name: _copied(value) for name, value in self._metric.metric_state.items()})

    def compute(self) -> float:
        """The metric of all groups."""
        return self._value(torch.arange(len(self._states)))

    def bootstrap(self) -> tuple[int, Callable[[Tensor], float]]:
        """(number of groups, indices of groups -> the metric of these)."""
        return len(self._states), self._value

    def _value(self, indices: Tensor) -> float:
        metric = self._metric
        metric.reset()
        states = [self._states[index] for index in indices.tolist()]
        for name, start in metric.metric_state.items():
            parts = [state[name] for state in states]
            merged = [one for part in parts for one in part] if isinstance(start, list) else torch.stack(parts).sum(0)
            setattr(metric, name, merged)
        metric._update_count, metric._computed = 1, None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(metric.compute())


def torchmetrics(name: str) -> Any:
    """A class of torchmetrics, e.g. `classification.MulticlassF1Score`.

    Raises:
        InputError: if torchmetrics is not installed, with the install line.
    """
    module, _, attribute = name.rpartition(".")
    return getattr(require(f"torchmetrics.{module}", "metrics"), attribute)


def adapted(row: Callable[..., Any]) -> Callable[[], Any]:
    """What makes a fresh state of a class with update and compute; one of torchmetrics' is wrapped.

    Args:
        row: the class, perhaps with some arguments given already.
    """
    made = inspect.unwrap(row)
    if not hasattr(made, "metric_state") or not hasattr(made, "add_state"):
        return row

    class Wrapped(LibraryMetric):
        def make(self, outputs: Any, targets: Any) -> Any:
            metric = row()
            summed = [name for name, reduce in metric._reductions.items() if _name(reduce) not in _COMBINED]
            if summed:
                raise InputError(
                    f"metric {type(metric).__name__}: its state {summed[0]!r} is neither summed nor concatenated; wrap "
                    "it in a class of your own with update and compute"
                )
            return metric

    return Wrapped


_COMBINED = ("None", "dim_zero_sum", "dim_zero_cat")


def _name(function: Any) -> str:
    return getattr(function, "__name__", str(function))


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value.clone()


def _device_of(outputs: Any) -> torch.device:
    return outputs.device if isinstance(outputs, Tensor) else torch.device("cpu")
