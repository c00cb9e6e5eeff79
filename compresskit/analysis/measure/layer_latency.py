"""Latency of single layers, measured: what a budget in time is spent on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.types import Inputs
from ..calibration.hooks import run_watched

_ROUNDS = 7
_WARM_UP = 2
_LEAST_SECONDS = 1e-3  # a turn of a short layer is repeated until it lasts about this long


def now() -> float:
    """Seconds on the clock that layers are timed by: the processor's time on one thread, else the time that passes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


@torch.inference_mode()
def interleaved_ms(runs: Sequence[Callable[[], Any]], *, rounds: int = _ROUNDS) -> list[float]:
    """Milliseconds of each run at its best of some rounds in which all take turns, so that drift hits all alike.

    The best counts because other processes only ever add time; each round starts at another run, so that what recurs
    does not meet the same run every time. On one thread the processor's time counts, which is free of other processes.

    Args:
        runs: what is timed, e.g. `lambda: layer(x)`.
        rounds: turns of each that count; two more come first as a warm-up.
    """
    repeats = [1] * len(runs)
    times: list[list[float]] = [[] for _ in runs]
    for number in range(rounds + _WARM_UP):
        for turn in range(len(runs)):
            place = (turn + number) % len(runs)
            run = runs[place]
            begin = now()
            for _ in range(repeats[place]):
                run()
            seconds = now() - begin
            if number >= _WARM_UP:
                times[place].append(seconds * 1e3 / repeats[place])
            else:
                repeats[place] = max(1, min(50, round(_LEAST_SECONDS * repeats[place] / max(seconds, 1e-7))))
    return [min(own) for own in times]


def layer_inputs(module: nn.Module, example: Inputs, names: Iterable[str]) -> dict[str, list[Tensor]]:
    """The first positional input of every call of some layers in one run, by layer name."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def note(name: str, given: tuple, named: dict[str, Any], _output: Any) -> None:
        seen[name].append((*given, *named.values())[0].detach())

    run_watched(module, example, note, seen)
    return seen
