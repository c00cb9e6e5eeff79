"""Measuring: parameters, MACs, peak memory; `latency` times. Nothing here is estimated."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from ...core.tensors.devices import device_of
from ...core.tensors.modules import evaluating
from ...core.types import Inputs, call
from .macs import count_macs


def parameter_count(module: nn.Module) -> int:
    """Weights that the module computes with, shared ones once; a quantized weight counts as its elements.

    Quantized layers hold integers in buffers and say how many weights those stand for in `weight_elements`.
    """
    owned = sum(parameter.numel() for parameter in module.parameters())
    return owned + sum(int(getattr(layer, "weight_elements", 0) or 0) for layer in module.modules())


def macs(module: nn.Module, inputs: Inputs) -> int:
    """Multiply-accumulates of one forward on the inputs, as `analysis.measure.macs` counts them."""
    return count_macs(module, inputs).total


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
    # torch.profiler would import the compiler first, which takes a second
    # acc_events: some versions of torch warn that later cycles, of which there are none, would clear the events
    with evaluating(module), torch.autograd.profiler.profile(profile_memory=True, acc_events=True) as profile:
        call(module, inputs)
    recorded: Any = profile  # its results have no types
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak or None
