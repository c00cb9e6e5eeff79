"""How id planes move through normalization layers; statistics are taken over the channels that stay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from ..channel_ids import varying, vector
from .elementwise import elementwise
from .schema import argument_names, arguments, freeze_input

Trace = Any


def batch_norm(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Scales, shifts and running statistics follow the channels they belong to.

    Weight standardization calls it on weights, (1, out_channels, in_channels * kernel): its statistics are then taken
    over the inputs that stay.
    """
    names = arguments(func, args, kwargs)
    x = names["input"]
    per_channel = [names.get(key) for key in ("weight", "bias", "running_mean", "running_var")]
    output = _masked_statistics(trace, func, args, kwargs) if names.get("training") else func(*args, **kwargs)
    output[0]._is_weight = trace.is_weight(x)
    view = (1, -1) + (1,) * (x.dim() - 2)
    operands = [x]
    for tensor in per_channel:
        if tensor is not None:
            part = tensor.detach().view(view)
            trace.set(part, [plane.view(view) for plane in trace.planes(tensor)])
            operands.append(part)
    trace.set(output[0], elementwise(trace, operands, x.shape, "batch_norm"))
    return output


def _masked_statistics(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Batch statistics over the positions that stay; what goes is zero."""
    x = args[0]
    stays = {d: trace.kept_positions(x, d) for d in range(x.dim()) if d != 1}
    stays = {d: positions for d, positions in stays.items() if positions is not None}
    if not stays:
        return func(*args, **kwargs)
    small = x
    for d, positions in stays.items():
        small = small.index_select(d, positions)
    result, *rest = func(small, *args[1:], **kwargs)
    for d, positions in stays.items():
        wide = result.new_zeros([*result.shape[:d], x.size(d), *result.shape[d + 1 :]])
        result = wide.index_copy_(d, positions, result)
    return (result, *rest)


def layer_norm(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Statistics of LayerNorm and RMSNorm are taken over the channels that stay."""
    names = arguments(func, args, kwargs)
    x, shape = names["input"], list(names["normalized_shape"])
    dim = x.dim() - 1
    affine = [key for key in ("weight", "bias") if names.get(key) is not None]
    stays = trace.kept_positions(x, dim) if len(shape) == 1 else None
    if stays is None:
        output = func(*args, **kwargs)
    else:
        small = {**names, "input": x.index_select(dim, stays), "normalized_shape": [len(stays)]}
        small |= {key: names[key].index_select(0, stays) for key in affine}
        output = list(func(*(small.get(name) for name in argument_names(func))))
        output[0] = torch.zeros_like(x).index_copy_(dim, stays, output[0])
        output = tuple(output)
    operands = [x, *(names[key] for key in affine)]
    if len(shape) > 1:
        for operand in operands:
            freeze_input(
                trace, operand, list(range(operand.dim() - len(shape), operand.dim())), trace.site("layer_norm")
            )
    trace.set(output[0], elementwise(trace, operands, x.shape, "layer_norm"))
    return output


def group_norm(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Groups lose the same channels each, or go whole."""
    names = arguments(func, args, kwargs)
    x, groups = names["input"], int(names["group"])
    output = func(*args, **kwargs) if trace.keep is None else _masked_group_norm(trace, func, names)
    view = (1, -1) + (1,) * (x.dim() - 2)
    operands = [x]
    for key in ("weight", "bias"):
        if names.get(key) is not None:
            part = names[key].detach().view(view)
            trace.set(part, [plane.view(view) for plane in trace.planes(names[key])])
            operands.append(part)
    planes = elementwise(trace, operands, x.shape, "group_norm")
    trace.set(output[0], planes)
    if 1 < groups < x.size(1):
        for plane in planes:
            if 1 in varying(plane):
                ids = vector(trace.ids, plane, 1, trace.site("group_norm")).reshape(groups, -1)
                trace.group_norms.append((ids, trace.site("group_norm")))
    return output


def _masked_group_norm(trace: Trace, func: Any, names: dict) -> tuple:
    """Groups of channels, each normalized over what stays of it."""
    x, groups = names["input"], int(names["group"])
    mask = trace.axis(x, 1).mask(trace.keep.numpy()).reshape(groups, -1)
    result = torch.zeros_like(x)
    width = x.size(1) // groups
    for group in range(groups):
        stays = torch.from_numpy(group * width + mask[group].nonzero()[0]).to(x.device)
        if len(stays):
            part = x.index_select(1, stays)
            weight = None if names.get("weight") is None else names["weight"].index_select(0, stays)
            bias = None if names.get("bias") is None else names["bias"].index_select(0, stays)
            result.index_copy_(1, stays, F.group_norm(part, 1, weight, bias, names["eps"]))
    return result, x.new_empty(0), x.new_empty(0)


def local_response_norm(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Tensor:
    """Each channel is divided by its neighbours' energy; the neighbours of the cut layer are those that stay."""
    x = kwargs.get("input", args[0] if args else None)
    args, kwargs = args[1:], {key: value for key, value in kwargs.items() if key != "input"}
    stays = trace.kept_positions(x, 1)
    with _disable_current_modes():
        if stays is None or x is None:
            output = func(x, *args, **kwargs)
        else:
            output = torch.zeros_like(x).index_copy_(1, stays, func(x.index_select(1, stays), *args, **kwargs))
    trace.set(output, list(trace.planes(x)))
    return output
