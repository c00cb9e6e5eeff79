"""Where a module computes, and batches of any structure brought there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def device_of(module: nn.Module) -> torch.device:
    """Where a module's first parameter or buffer lies; the CPU for one without any."""
    first = next((tensor for tensors in (module.parameters(), module.buffers()) for tensor in tensors), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def on_cpu(module: nn.Module) -> Iterator[None]:
    """While inside, a module lies on the CPU; one on meta stays there."""
    device = device_of(module)
    moves = device.type not in ("cpu", "meta")
    if moves:
        module.to("cpu")
    try:
        yield
    finally:
        if moves:
            module.to(device)


def to_device(inputs: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """Move a batch (nested tuples, lists, mappings) to a device; floating tensors also to a dtype."""
    if isinstance(inputs, Tensor):
        to_accelerator = device.type == "cuda" and inputs.device.type == "cpu"
        source = inputs.pin_memory() if to_accelerator else inputs  # so that nobody waits for the copy
        return source.to(
            device, dtype if dtype and inputs.is_floating_point() else inputs.dtype, non_blocking=to_accelerator
        )
    if isinstance(inputs, Mapping):
        return {key: to_device(value, device, dtype) for key, value in inputs.items()}
    if isinstance(inputs, tuple) and hasattr(inputs, "_fields"):  # a named tuple
        return type(inputs)(*(to_device(value, device, dtype) for value in inputs))
    if isinstance(inputs, tuple | list):
        return type(inputs)(to_device(value, device, dtype) for value in inputs)
    return inputs
