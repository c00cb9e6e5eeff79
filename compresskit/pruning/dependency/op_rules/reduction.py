"""Operations that sum, rank or resample along dimensions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..channel_ids import compact, core, drop, freeze
from .schema import arguments, freeze_input, plain_name

Trace = Any


def reduce(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    names = arguments(func, args, kwargs)
    tensor = args[0]
    dims = names.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(tensor.dim()))
    dims = [d % max(tensor.dim(), 1) for d in dims]
    for d in dims:  # statistics are taken over what stays
        stays = trace.kept_positions(tensor, d)
        if stays is not None:
            planes = [plane.index_select(d, stays.cpu()) for plane in trace.planes(tensor)]
            tensor = tensor.index_select(d, stays)
            trace.set(tensor, [compact(plane) for plane in planes])
    output = func(tensor, *args[1:], **kwargs)
    outputs = output if isinstance(output, tuple | list) else [output]
    for result in outputs:
        planes = []
        for plane in trace.planes(args[0]):
            left = drop(trace.ids, plane, dims, trace.site(plain_name(func)))
            if left is not None and result.dim() != plane.dim():
                for d in sorted(dims, reverse=True):
                    left = left.select(d, 0)
            if left is not None:
                planes.append(left)
        trace.set(result, planes)
    return output


def along(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Operations in which the positions along a dimension depend on each other."""
    names = arguments(func, args, kwargs)
    dims = names.get("dim", names.get("dims", -1))
    dims = list(range(args[0].dim())) if dims is None else list(dims) if isinstance(dims, tuple | list) else [dims]
    freeze_input(trace, args[0], dims, trace.site(plain_name(func)))
    output = func(*args, **kwargs)
    for result in output if isinstance(output, tuple | list) else [output]:
        if result.dim() == args[0].dim():
            trace.set(result, [resized(core(plane), result.shape) for plane in trace.planes(args[0])])
    return output


def spatial(count: int, trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Pooling, resampling and the like: the last `count` dimensions are space."""
    output = func(*args, **kwargs)
    dims = list(range(args[0].dim() - count, args[0].dim()))
    reason = trace.site(plain_name(func))
    planes = [freeze(trace.ids, plane, dims, reason) for plane in trace.planes(args[0])]
    for result in output if isinstance(output, tuple | list) else [output]:
        trace.set(result, [resized(core(plane), result.shape) for plane in planes])
    return output


def resized(small: Tensor, shape: torch.Size) -> Tensor:
    return small.expand([size if small.size(d) == 1 else small.size(d) for d, size in enumerate(shape)])
