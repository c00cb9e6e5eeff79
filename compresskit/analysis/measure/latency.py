"""Latency, measured: whatever is timed takes turns with what it is compared with, so that drift hits all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...core.tensors.dtypes import fit_inputs
from ...core.tensors.modules import evaluating
from ...core.types import Inputs, call, invoke

_LAYER_ROUNDS = 7
_LAYER_SECONDS = 1e-3  # a turn of a short layer is repeated until it lasts about this long
_MODEL_ROUNDS = 12
_MODEL_SECONDS = 0.15
_WARM_UP_REPEATS = 10

Clock = Literal["processor", "wall"]


class Quartiles(NamedTuple):
    """Lower quartile, median and upper quartile."""

    low: float
    median: float
    high: float

    @property
    def spread(self) -> float:
        """Half of what lies between the quartiles."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Times:
    """Milliseconds of one run in each round."""

    rounds_ms: tuple[float, ...]

    @property
    def best_ms(self) -> float:
        """The least, because other processes only ever add time."""
        return min(self.rounds_ms)

    @property
    def median_ms(self) -> float:
        """The median over rounds."""
        return statistics.median(self.rounds_ms)

    def over(self, other: Times) -> list[float]:
        """These times as shares of another's, round by round."""
        return [own / ms for own, ms in zip(self.rounds_ms, other.rounds_ms, strict=True)]


@dataclass(frozen=True)
class Latency:
    """Interleaved A/B latency: this model (B) against a baseline (A) in the same process.

    Attributes:
        baseline_ms: median time of one forward of the baseline.
        model_ms: median time of one forward of this model.
        speedup: median over rounds of baseline time / model time.
        speedup_low: lower quartile of that ratio.
        speedup_high: upper quartile of that ratio.
        batch_size: images a forward.
        threads: torch's intra-op threads.
    """

    baseline_ms: float
    model_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    batch_size: int
    threads: int


def quartiles(values: Sequence[float]) -> Quartiles:
    """Quartiles of one value or more."""
    return Quartiles(*(statistics.quantiles(values, n=4) if len(values) > 1 else list(values) * 3))


@torch.no_grad()  # not inference mode: what a model keeps between calls must take part in training again
def take_turns(
    runs: Sequence[Callable[[], Any]],
    *,
    rounds: int = _LAYER_ROUNDS,
    turn_seconds: float = _LAYER_SECONDS,
    clock: Clock = "processor",
) -> list[Times]:
    """Time some runs in rounds in which each has its turn; two more rounds come first as a warm-up.

    Each round starts at another run, so that what recurs does not meet the same run every time.

    Args:
        runs: what is timed, e.g. `lambda: layer(x)`.
        rounds: turns of each that count.
        turn_seconds: a run that takes less is repeated until its turn lasts about this long.
        clock: "processor" counts the time of this process where there is one thread, which is free of other processes;
            "wall" the time that passes.
    """
    repeats = [1] * len(runs)
    times: list[list[float]] = [[] for _ in runs]

    def turn(place: int, count: int) -> float:
        begin = now(clock)
        for _ in range(count):
            runs[place]()
        return max(now(clock) - begin, 1e-9) / count

    with _no_garbage_collection():
        for _ in range(2):
            for place in range(len(runs)):
                seconds = turn(place, min(repeats[place], _WARM_UP_REPEATS))
                repeats[place] = max(1, round(turn_seconds / max(seconds, 1e-6)))
        for number in range(rounds):
            for step in range(len(runs)):
                place = (step + number) % len(runs)
                times[place].append(turn(place, repeats[place]) * 1e3)
    return [Times(tuple(own)) for own in times]


def now(clock: Clock = "processor") -> float:
    """Seconds on a clock (see `take_turns`); on a GPU, once it has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time() if clock == "processor" and torch.get_num_threads() == 1 else time.perf_counter()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def latency_ab(
    baseline: nn.Module, module: nn.Module, inputs: Inputs, *, rounds: int = _MODEL_ROUNDS, batch_size: int = 1
) -> Latency:
    """Time two modules in eval mode in turn, A B B A.

    Args:
        baseline: module A.
        module: module B.
        inputs: one batch that both take.
        rounds: pairs of timings.
        batch_size: what the batch holds, for the record.
    """
    with evaluating(baseline, module):
        runs = [partial(invoke, one, fit_inputs(one, inputs)) for one in (baseline, module)]
        first, second = take_turns(runs, rounds=rounds, turn_seconds=_MODEL_SECONDS, clock="wall")
    speedup = quartiles(first.over(second))
    return Latency(
        first.median_ms, second.median_ms, speedup.median, speedup.low, speedup.high, batch_size,
        torch.get_num_threads(),
    )  # fmt: skip


@torch.no_grad()
def layer_inputs(module: nn.Module, example: Inputs, names: Iterable[str]) -> dict[str, list[Tensor]]:
    """The first positional input of every call of some layers in one run, by layer name."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    layers = dict(module.named_modules())

    def note(name: str, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[name].append(inputs[0].detach())

    handles = [layers[name].register_forward_pre_hook(partial(note, name)) for name in seen]
    try:
        call(module, example)
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def layers_in_model_ms(
    module: nn.Module, example: Inputs, names: Iterable[str], *, rounds: int = _LAYER_ROUNDS
) -> tuple[float, dict[str, float]]:
    """(milliseconds of a model, of each of some layers over its calls), each at its best of some forward passes."""
    names = list(names)
    layers = dict(module.named_modules())
    sums, begun = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    best, whole = dict.fromkeys(names, float("inf")), float("inf")

    def begin(name: str) -> None:
        begun[name] = now()

    def end(name: str) -> None:
        sums[name] += now() - begun[name]

    handles = []
    for name in names:
        handles.append(layers[name].register_forward_pre_hook(lambda *_, name=name: begin(name)))
        handles.append(layers[name].register_forward_hook(lambda *_, name=name: end(name)))
    try:
        for number in range(rounds + 2):
            sums.update(dict.fromkeys(names, 0.0))
            start = now()
            call(module, example)
            seconds = now() - start
            if number >= 2:  # the first ones bring memory and kernels in
                whole = min(whole, seconds)
                best = {name: min(best[name], sums[name]) for name in names}
    finally:
        for handle in handles:
            handle.remove()
    return max(whole, sum(best.values())) * 1e3, {name: seconds * 1e3 for name, seconds in best.items()}
