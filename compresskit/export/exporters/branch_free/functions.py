"""torch's functions that become loops, or operators that some runtimes lack, in those that all of them have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

#: torch's own, in no name of this module: those are replaced, too
_TORCH: dict[str, Callable[..., Tensor]] = {"bags": functional.embedding_bag, "pad": functional.pad}
_DIMENSION, _FILLED = 1, ("constant", "reflect", "replicate")


def embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None, *rest: Any, **named: Any) -> Tensor:
    """torch's function of the name: bags of one size, (bags, entries), are looked up and put together."""
    names = ("max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse", "per_sample_weights",
             "include_last_offset", "padding_idx")  # fmt: skip
    given = dict(zip(names, rest, strict=False)) | named
    if offsets is not None or input.dim() != 2 or given.get("max_norm") is not None:
        return _TORCH["bags"](input, weight, offsets, **given)
    mode, padding, shares = (given.get(name) for name in ("mode", "padding_idx", "per_sample_weights"))
    found = functional.embedding(input, weight)
    if shares is not None:
        found = found * shares[..., None]
    if padding is None:
        if mode == "max":
            return found.amax(_DIMENSION)
        return found.sum(_DIMENSION) if mode == "sum" else found.mean(_DIMENSION)
    kept = (input != (padding if padding >= 0 else padding + len(weight)))[..., None]
    if mode == "max":
        largest = torch.where(kept, found, -torch.inf).amax(_DIMENSION)
        return torch.where(kept.any(_DIMENSION), largest, 0.0)
    found = torch.where(kept, found, 0.0)
    return found.sum(_DIMENSION) if mode == "sum" else found.sum(_DIMENSION) / kept.sum(_DIMENSION).clamp(min=1)


def pad(input: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """torch's function of the name: circular padding is put together from slices, and padding by nothing is nothing."""
    if all(type(size) is int and size == 0 for size in pad):
        return input
    if mode in _FILLED or min(pad) < 0:
        return _TORCH["pad"](input, pad, mode, value)
    for place in range(len(pad) // 2):
        axis, (before, behind) = input.dim() - 1 - place, pad[2 * place : 2 * place + 2]
        size = input.shape[axis]
        parts = [input.narrow(axis, size - before, before)] if before else []
        parts = [*parts, input, *([input.narrow(axis, 0, behind)] if behind else [])]
        input = torch.cat(parts, axis) if len(parts) > 1 else input
    return input
