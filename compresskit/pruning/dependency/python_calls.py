"""Python calls whose integer arguments fix shapes: each number is noted with where it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .channel_ids import varying
from .op_rules import factories, normalization
from .op_rules.schema import freeze_input
from .records import Count
from .symbolic_int import Axis, Number, expression, leaves

Trace = Any


def _view(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """view, reshape, expand: one size a dimension of the output."""
    sizes = kwargs.get("size", kwargs.get("shape", args[1:]))
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    if not isinstance(output, Tensor) or not all(isinstance(size, int) for size in sizes) or len(sizes) != output.dim():
        return
    for dim, size in enumerate(sizes):
        if size > 1:
            trace.number(output, dim, size, name)


def _expand(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    _view(trace, name, args, kwargs, output)
    factories.grown(trace, name, args, kwargs, output)


def _unflatten(trace: Trace, name: str, args: tuple, kwargs: dict, output: Tensor) -> None:
    dim, sizes = (*args[1:], *kwargs.values())[:2]
    if isinstance(dim, int):
        dim %= args[0].dim()
        for place, size in enumerate(sizes):
            if size > 1:
                trace.number(output, dim + place, size, name)


def _split(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """split(tensor, size or sizes, dim): sizes of the parts."""
    sizes = args[1] if len(args) > 1 else kwargs.get("split_size_or_sections", kwargs.get("split_size"))
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    for place, part in enumerate(output):
        size = sizes[place] if isinstance(sizes, tuple | list) else sizes
        if isinstance(size, int) and part.size(dim) == size:
            trace.number(part, dim, size, name)


def _chunk(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """chunk into unequal parts: the same positions go from each, and what makes the first parts longer stays.

    Then the last part stays as much shorter as it was, so chunk cuts at the same places.
    """
    whole = args[0]
    dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % whole.dim()
    sizes = [part.size(dim) for part in output]
    if len(set(sizes)) == 1:
        return
    reason = trace.site("chunk into unequal parts")
    planes = [plane for part in output for plane in trace.planes(part) if dim in varying(plane)]
    if len(planes) < len(output):  # some parts hold no channels, so the others keep their length
        for plane in planes:
            trace.ids.pin(plane, reason)
        return
    first = planes[0].narrow(dim, 0, sizes[-1])
    for plane in planes:
        trace.ids.unite(plane.narrow(dim, 0, sizes[-1]), first, reason)
        if plane.size(dim) > sizes[-1]:
            trace.ids.pin(plane.narrow(dim, sizes[-1], plane.size(dim) - sizes[-1]), reason)


def _getitem(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """x[a:b]: how many channels stand before a and before b is fixed by these numbers."""
    tensor, index = args
    places = list(index) if isinstance(index, tuple) else [index]
    if any(not (isinstance(p, int | slice) or p is None or p is Ellipsis) for p in places):
        return
    used = sum(isinstance(p, int | slice) for p in places)
    dim = 0
    for place in places:
        if place is Ellipsis:
            dim += tensor.dim() - used
        elif isinstance(place, int):
            dim += 1
        elif isinstance(place, slice):
            _bounds(trace, tensor, dim, place)
            dim += 1


def _bounds(trace: Trace, tensor: Tensor, dim: int, place: slice) -> None:
    axis = trace.axis(tensor, dim)
    if not axis.planes:
        return
    if place.step not in (None, 1):
        _pin_axis(trace, axis, "a strided slice of channels")
        return
    size = axis.size
    for bound in (place.start, place.stop):
        if bound is None or bound == 0 or bound >= size:
            continue
        where = int(bound) if bound >= 0 else int(bound) + size
        number = (
            bound
            if bound >= 0
            else (-bound if not isinstance(bound, Number) else Number(-int(bound), ("sub", ("const", 0), bound.expr)))
        )
        for rows in axis.planes:
            ids = rows[:, :where] if bound >= 0 else rows[:, where:]
            if len(rows) == 1:
                trace.count(ids[0], number, "slice")
            else:
                _rows(trace, ids, number)


def _rows(trace: Trace, ids: np.ndarray, number: int) -> None:
    expr = expression(number)
    if leaves(expr, "attr") or leaves(expr, "size"):
        trace.counts.append(Count(Axis((ids,), ids.shape[1], trace), expr, trace.site("slice")))
    else:
        trace.ids.unite(torch.from_numpy(ids), torch.from_numpy(ids[:, :1]), trace.site(f"slice at {int(number)}"))


def _pin_axis(trace: Trace, axis: Any, reason: str) -> None:
    for rows in axis.planes:
        trace.ids.pin(torch.from_numpy(rows), trace.site(reason))


def _convolution(trace: Trace, name: str, args: tuple, kwargs: dict, output: Tensor) -> None:
    """groups of a grouped convolution, where groups can go."""
    x, weight = args[0], args[1] if len(args) > 1 else kwargs["weight"]
    groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)  # the same place in plain and transposed ones
    if groups == 1:
        return
    axis = trace.axis(x, 1) if x.dim() == weight.dim() else None
    if axis is None or not axis.planes:
        return
    width = x.size(1) // int(groups)
    if width > int(groups) and width > 1:
        return  # the same channels go from each group, and the number of groups stays
    ids = axis.planes[0]
    trace.count(ids.reshape(len(ids), int(groups), width)[0, :, 0], groups, "groups of a convolution")


def _group_norm(trace: Trace, name: str, args: tuple, kwargs: dict, output: Tensor) -> None:
    """num_groups: groups go as a whole, or the same channels from each."""
    groups = args[1] if len(args) > 1 else kwargs["num_groups"]
    axis = trace.axis(output, 1)
    if not axis.planes or int(groups) in (1,):
        return
    # a group stays while any channel of it stays
    ids = axis.planes[0][0].reshape(int(groups), -1).T
    expr = expression(groups)
    if leaves(expr, "attr") or leaves(expr, "size"):
        trace.counts.append(
            Count(Axis((np.ascontiguousarray(ids),), int(groups), trace), expr, trace.site("group_norm"))
        )
    elif ids.shape[0] > 1:
        rows = torch.from_numpy(ids)
        trace.ids.unite(rows, rows[:, :1], trace.site(f"group_norm with the number {int(groups)}"))
    else:
        trace.ids.pin(torch.from_numpy(ids), trace.site(f"group_norm with the number {int(groups)}"))


def _layer_norm(trace: Trace, name: str, args: tuple, kwargs: dict, output: Tensor) -> None:
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    for place, size in enumerate(reversed(tuple(shape))):
        trace.number(output, output.dim() - 1 - place, size, name)


def _attention(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """The width that attention scales by stays, whichever kernels it is made of."""
    if kwargs.get("scale") is None:
        given = dict(zip(("query", "key"), args, strict=False)) | kwargs
        for operand in (given["query"], given["key"]):
            freeze_input(trace, operand, [-1], f"{trace.site('attention')} scales by the number of dimensions")


def _nothing(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """Calls that are only watched for their arguments (F.pad)."""


CALLS: dict[str, Callable] = {
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution
    ),
    **dict.fromkeys(("zeros", "ones", "empty"), factories.factory),
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty"), factories.new),
    "full": factories.full,
    "new_full": factories.new_full,
    "eye": factories.eye,
    "broadcast_to": factories.grown,
    "expand_as": factories.grown_as,
    "expand": _expand,
    "chunk": _chunk,
    "unflatten": _unflatten,
    "__getitem__": _getitem,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "pad": _nothing,
}

#: calls that are followed as one operation instead of by what they consist of
WHOLE: dict[str, Callable] = {"local_response_norm": normalization.local_response_norm}
