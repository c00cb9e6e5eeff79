"""Measuring: parameters, MACs, bytes, latency against a baseline, peak memory. Nothing here is estimated."""

from __future__ import annotations

import logging
import os
import statistics
from dataclasses import dataclass

import torch
from torch import nn

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # the timer's import warns of a missing compiler
from torch.utils.benchmark import Timer  # noqa: E402

from ...core.tensors.dtypes import fit_inputs  # noqa: E402
from ...core.tensors.modules import device_of, evaluating  # noqa: E402
from ...core.types import Inputs, call, invoke  # noqa: E402
from .macs import count_macs  # noqa: E402

_ROUND_SECONDS = 0.15  # one side of one A/B round runs about this long
_ROUNDS = 12


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


def parameter_count(module: nn.Module) -> int:
    """Weights that the module computes with, shared ones once; a quantized weight counts as its elements.

    Quantized layers hold integers in buffers and say how many weights those stand for in `weight_elements`.
    """
    owned = sum(parameter.numel() for parameter in module.parameters())
    return owned + sum(int(getattr(layer, "weight_elements", 0) or 0) for layer in module.modules())


def macs(module: nn.Module, inputs: Inputs) -> int:
    """Multiply-accumulates of one forward on the inputs, as `core.flops` counts them."""
    return count_macs(module, inputs).total


@torch.no_grad()  # not inference mode: what a model keeps between calls must take part in training again
def latency_ab(
    baseline: nn.Module, module: nn.Module, inputs: Inputs, *, rounds: int = _ROUNDS, batch_size: int = 1
) -> Latency:
    """Time two modules in eval mode in turn, A B B A, so that drift of the machine hits both alike.

    Args:
        baseline: module A.
        module: module B.
        inputs: one batch that both take.
        rounds: pairs of timings.
        batch_size: what the batch holds, for the record.
    """
    threads = torch.get_num_threads()
    timers = [
        Timer(
            "invoke(module, inputs)",
            globals={"invoke": invoke, "module": m, "inputs": fit_inputs(m, inputs)},
            num_threads=threads,
        )
        for m in (baseline, module)
    ]
    pairs = []
    with evaluating(baseline, module):
        runs = [max(1, round(_ROUND_SECONDS / max(timer.timeit(2).mean, 1e-6))) for timer in timers]
        for number in range(rounds):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            seconds = {side: timers[side].timeit(runs[side]).mean for side in order}
            pairs.append((seconds[0], seconds[1]))
    ratios = sorted(first / second for first, second in pairs)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return Latency(
        statistics.median(first for first, _ in pairs) * 1e3,
        statistics.median(second for _, second in pairs) * 1e3,
        statistics.median(ratios),
        quartiles[0],
        quartiles[2],
        batch_size,
        threads,
    )


@torch.no_grad()
def peak_memory_bytes(module: nn.Module, inputs: Inputs) -> int | None:
    """Peak of bytes allocated by torch during one forward in eval mode, on top of weights and inputs.

    Returns:
        Bytes, or None where the profiler reports no allocations (then the report says "not measured").
    """
    device = device_of(module)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with evaluating(module):
            call(module, inputs)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler talks on stderr otherwise
    activities = [torch.profiler.ProfilerActivity.CPU]
    with evaluating(module), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call(module, inputs)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak or None
