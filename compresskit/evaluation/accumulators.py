"""A metric over batches: values of examples, all examples at once, or an updated state; each with its interval."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.errors import InputError
from ..core.tensors.batches import count_examples, join, pick
from ..core.types import to_device
from .intervals import RESAMPLES, Score, bootstrap, interval, percentiles, resamples
from .metric_terms.library import adapted

_CPU = torch.device("cpu")
_REPLICATES = 100  # of a state of the user's own: each takes another resample of every batch
_BOOTSTRAP_SECONDS = 20.0  # a function of all examples may be slow; its resamples end after this time


class Accumulator(Protocol):
    """Takes batches in, and gives the metric of all of them."""

    def add(self, outputs: Any, targets: Any) -> None:
        """Take a batch in."""

    def value(self) -> float:
        """The metric of what was taken in."""
        ...

    def score(self) -> Score:
        """The same with its interval."""
        ...


class Examples:
    """The mean of a value an example; the interval is by formula.

    Args:
        function: (outputs, targets) -> (batch,).
        name: of the metric, for errors.
    """

    def __init__(self, function: Callable[[Any, Any], Tensor], name: str):
        self._function, self._name = function, name
        self._values: list[Tensor] = []

    def add(self, outputs: Any, targets: Any) -> None:
        """Take a batch in.

        Raises:
            InputError: if the function returns anything but one value an example.
        """
        values = self._function(outputs, targets)
        count = count_examples(outputs)
        if not isinstance(values, Tensor) or values.shape != (count,):
            raise InputError(
                f"metric {self._name!r} must return one value an example, ({count},), or say over_dataset = True"
            )
        self._values.append(values.detach().double().cpu())

    def value(self) -> float:
        """The mean."""
        return float(torch.cat(self._values).mean())

    def score(self) -> Score:
        """The mean with its interval."""
        return interval(torch.cat(self._values))


class Dataset:
    """A function of all examples at once, which are kept for it; examples are resampled for the interval.

    Args:
        function: (outputs, targets) -> number.
    """

    def __init__(self, function: Callable[[Any, Any], Any]):
        self._function = function
        self._outputs: list[Any] = []
        self._targets: list[Any] = []

    def add(self, outputs: Any, targets: Any) -> None:
        """Keep a batch."""
        self._outputs.append(to_device(outputs, _CPU))
        self._targets.append(to_device(targets, _CPU))

    def value(self) -> float:
        """The function of everything."""
        return _number(self._function(join(self._outputs), join(self._targets)))

    def score(self) -> Score:
        """The same with its interval; fewer resamples where the function is slow."""
        outputs, targets = join(self._outputs), join(self._targets)
        value, count, ends = self.value(), count_examples(outputs), time.monotonic() + _BOOTSTRAP_SECONDS
        found: list[float] = []
        for indices in resamples(count):
            found.append(_number(self._function(pick(outputs, indices), pick(targets, indices))))
            if time.monotonic() > ends:
                break
        return percentiles(value, found, count)


class Updates:
    """A state with update(outputs, targets) and compute() -> number.

    One that has `bootstrap() -> (groups, indices -> number)` gives its interval by that. Of any other, replicas take
    each example as often as Poisson's law with mean 1 says.

    Args:
        make: makes a fresh state.
        replicates: how many replicas; 0 where no interval is asked for.
    Source: Chamandy et al., "Estimating Uncertainty for Massive Data Streams", 2012 (the Poisson bootstrap).
    """

    def __init__(self, make: Callable[[], Any], replicates: int = _REPLICATES):
        self._state = make()
        self._own = hasattr(self._state, "bootstrap")
        self._replicas = [] if self._own else [make() for _ in range(replicates)]
        self._updated: set[int] = set()  # of few examples, some replicas get none, and have nothing to compute
        self._generator = torch.Generator().manual_seed(RESAMPLES)
        self._samples = 0

    def add(self, outputs: Any, targets: Any) -> None:
        """Update the state, and its replicas."""
        self._state.update(outputs, targets)
        count = count_examples(targets) or count_examples(outputs)
        self._samples += count
        for number, replica in enumerate(self._replicas):
            times = torch.poisson(torch.ones(count), self._generator).long()
            indices = torch.arange(count).repeat_interleave(times)
            if len(indices):
                replica.update(pick(outputs, indices), pick(targets, indices))
                self._updated.add(number)

    def value(self) -> float:
        """What the state computes."""
        return _number(self._state.compute())

    def score(self) -> Score:
        """The same with its interval."""
        value = self.value()
        if self._own:
            groups, again = self._state.bootstrap()
            return bootstrap(value, groups, self._samples, again)
        found = [_number(self._replicas[number].compute()) for number in sorted(self._updated)]
        return percentiles(value, found, self._samples)


def accumulator(row: Callable[..., Any], name: str, *, intervals: bool = True) -> Accumulator:
    """What a row of METRICS is run by.

    Args:
        row: a function of an example, of a data set, or a class; perhaps with some arguments given already.
        name: of the metric, for errors.
        intervals: whether scores are asked for, not values alone.
    """
    if inspect.isclass(inspect.unwrap(row)):
        return Updates(adapted(row), _REPLICATES if intervals else 0)
    if getattr(row, "over_dataset", False):
        return Dataset(row)
    return Examples(row, name)


def _number(found: Any) -> float:
    if isinstance(found, Tensor) and found.numel() != 1:
        raise InputError(f"a metric must compute one number, got a tensor {list(found.shape)}")
    try:
        return float(found)
    except (TypeError, ValueError) as error:
        raise InputError(f"a metric must compute one number, got {type(found).__name__}") from error
