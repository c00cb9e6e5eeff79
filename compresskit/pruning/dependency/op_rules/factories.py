"""Calls that make constant tensors: their sizes follow the channels that the numbers name.

A state of zeros that a recurrent cell starts from has the width of the cell. Its elements are all the same, so the
constant of the cut model's width equals the constant of the whole model's width with channels taken away. Where the
values depend on the position (arange, one_hot), no channels are given, and what meets the tensor keeps its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..channel_ids import along, varying
from ..symbolic_int import Number, leaves

Trace = Any


def factory(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """zeros, ones, empty (*sizes)."""
    _sized(trace, name, kwargs.get("size", args), output)


def full(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """full(sizes, value)."""
    _sized(trace, name, kwargs.get("size", args[:1]), output)


def new(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """x.new_zeros(*sizes), new_ones, new_empty."""
    _sized(trace, name, kwargs.get("size", args[1:]), output)


def new_full(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """x.new_full(sizes, value)."""
    _sized(trace, name, kwargs.get("size", args[1:2]), output)


def eye(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """eye(n): rows and columns at the same positions go, and what stays is the smaller identity."""
    rows = kwargs.get("n", args[0] if args else None)
    columns = kwargs.get("m", args[1] if len(args) > 1 else rows)
    if columns is not None and rows is not None and int(columns) == int(rows):
        _sized(trace, name, (rows, columns), output)
        planes = trace.planes(output)
        if len(planes) == 2:
            trace.ids.unite(planes[0][:, 0], planes[1][0], trace.site(name))


def grown(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """expand and broadcast_to: one element repeated is a constant, whose size follows the channels that it names."""
    sizes = kwargs.get("size", args[1:])
    if len(sizes) == 1 and isinstance(sizes[0], Sequence):
        sizes = sizes[0]
    if not isinstance(output, Tensor) or len(sizes) != output.dim():
        return
    before = [1] * (output.dim() - args[0].dim()) + list(args[0].shape)
    numbers = {d: sizes[d] for d in range(output.dim()) if int(sizes[d]) > 1 and int(before[d]) == 1}
    if not trace.planes(args[0]) and any(isinstance(size, Number) for size in numbers.values()):
        _sized(trace, name, [numbers.get(d, 1) for d in range(output.dim())], output)
    elif numbers:
        vars(output)["_repeated"] = numbers


def grown_as(trace: Trace, name: str, args: tuple, kwargs: dict, output: Any) -> None:
    """expand_as: a constant repeated to the width of another tensor has that tensor's channels."""
    grown, other = args[0], kwargs.get("other", args[1] if len(args) > 1 else None)
    if trace.planes(grown) or not isinstance(other, Tensor):
        return
    same = {d for d in range(output.dim()) if output.stride(d)}
    trace.set(output, [plane for plane in trace.planes(other) if not same & set(varying(plane))])


def _sized(trace: Trace, name: str, sizes: Sequence, output: Any) -> None:
    if len(sizes) == 1 and isinstance(sizes[0], Sequence):
        sizes = sizes[0]
    if not isinstance(output, Tensor) or len(sizes) != output.dim():
        return
    planes = []
    for dim, size in enumerate(sizes):
        if isinstance(size, Number) and size > 1 and all(axis.owner is trace for axis in leaves(size.expr, "size")):
            ids = trace.ids.new(int(size))
            trace.count(ids.numpy(), size, name)
            planes.append(along(dim, ids, output.shape))
    trace.set(output, planes)


def meet_repeated(trace: Trace, tensors: Sequence[Tensor], planes: list[Tensor], dims: int, what: str) -> list[Tensor]:
    """Planes of an element-wise operation whose operands were repeated to a width: the width's number must follow."""
    made = tensors[0].new_empty(()).expand([max(p.size(d) for p in planes) for d in range(dims)]) if planes else None
    for tensor in tensors:
        for dim, number in getattr(tensor, "_repeated", {}).items():
            place = dim + dims - tensor.dim()
            if made is None or not any(place in varying(plane) for plane in planes):
                continue
            trace.set(made, planes)
            trace.number(made, place, number, f"{what} with a tensor repeated")
            planes = list(trace.planes(made))
    return planes
