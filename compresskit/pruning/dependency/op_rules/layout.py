"""Operations that move data: executed on the id planes themselves, or told in terms of planes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..channel_ids import compact, core, drop, freeze, varying, vector
from .elementwise import join, merge
from .reduction import resized
from .schema import arguments, freeze_input, plain_name, unknown

Trace = Any


def layout(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    source = trace.planes(args[0])
    outputs = list(output) if isinstance(output, tuple | list) else [output]
    moved = [_move(func, plane, args, kwargs, outputs) for plane in source]
    for index, result in enumerate(outputs):
        planes = [compact(planes[index]) for planes in moved]
        trace.set(result, planes)
        if trace.is_weight(args[0]):
            result._is_weight = True
        for plane in planes:
            if len(varying(plane)) > 1:
                trace.boxes.append((core(plane), trace.site(plain_name(func))))
    return output


def _move(func: Any, plane: Tensor, args: tuple, kwargs: dict, outputs: list) -> list[Tensor]:
    if plain_name(func) in ("view", "_unsafe_view", "_reshape_alias"):
        return [plane.reshape(outputs[0].shape)]
    if plain_name(func) in ("alias", "detach", "clone", "contiguous", "_to_copy", "lift_fresh", "lift_fresh_copy"):
        return [plane]
    result = func(plane, *args[1:], **kwargs)
    return list(result) if isinstance(result, tuple | list) else [result]


def select(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """select keeps one position and unbind gives each a name: the dimension cannot lose any."""
    dim = arguments(func, args, kwargs).get("dim", 0)
    freeze_input(trace, args[0], [dim], f"one position taken ({trace.site(plain_name(func))})")
    return layout(trace, func, args, kwargs)


def split(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Equal parts of a channel dimension stay equal: the same positions go from each."""
    output = layout(trace, func, args, kwargs)
    dim = arguments(func, args, kwargs).get("dim", 0) % args[0].dim()
    if any(dim in varying(plane) for plane in trace.planes(args[0])):
        sizes = {part.size(dim) for part in output}
        if len(sizes) == 1 and len(output) > 1 and "with_sizes" not in plain_name(func):
            for part in output[1:]:
                for mine, first in zip(trace.planes(part), trace.planes(output[0]), strict=False):
                    trace.ids.unite(mine, first, trace.site("equal parts"))
    return output


def glu(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """One half of a dimension gates the other: the same positions go from both."""
    output = func(*args, **kwargs)
    dim = arguments(func, args, kwargs).get("dim", -1) % args[0].dim()
    planes = []
    for plane in trace.planes(args[0]):
        first, second = plane.chunk(2, dim)
        trace.ids.unite(first, second, trace.site("glu"))
        planes.append(first)
    trace.set(output, planes)
    return output


def cat(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    dim = arguments(func, args, kwargs).get("dim", 0) % output.dim()
    tensors = [tensor for tensor in args[0] if tensor.dim() == output.dim()]  # cat skips legacy empty tensors
    trace.set(output, join(trace, tensors, dim, output.shape))
    return output


def stack(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    dim = arguments(func, args, kwargs).get("dim", 0) % output.dim()
    parts = []
    for tensor in args[0]:
        part = tensor.detach().unsqueeze(dim)
        trace.set(part, [plane.unsqueeze(dim) for plane in trace.planes(tensor)])
        parts.append(part)
    trace.set(output, join(trace, parts, dim, output.shape))
    return output


def pad(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Padding brings ids of its own, which whatever it meets ties to channels."""
    output = func(*args, **kwargs)
    amounts = list(args[1])
    numbers = (
        trace.pads if trace.pads is not None and list(map(int, trace.pads)) == list(map(int, amounts)) else amounts
    )
    planes = []
    for plane in trace.planes(args[0]):
        for place in range(len(amounts) // 2):
            dim = plane.dim() - 1 - place
            before, after = amounts[2 * place], amounts[2 * place + 1]
            if dim not in varying(plane):
                small = core(plane, [dim])
                plane = small.narrow(dim, 0, 1).expand([*plane.shape[:dim], output.size(dim), *plane.shape[dim + 1 :]])
                continue
            if before < 0 or after < 0:
                plane = freeze(trace.ids, plane, [dim], trace.site("cropping by padding"))
                plane = plane.narrow(dim, 0, 1).expand([*plane.shape[:dim], output.size(dim), *plane.shape[dim + 1 :]])
                continue
            pieces = []
            for amount, number in ((before, numbers[2 * place]), (after, numbers[2 * place + 1])):
                ids = trace.ids.new(amount)
                trace.count(ids.numpy(), number, "pad")
                view = [1] * plane.dim()
                view[dim] = amount
                pieces.append(ids.view(view).expand([*plane.shape[:dim], amount, *plane.shape[dim + 1 :]]))
            plane = compact(torch.cat([pieces[0], plane, pieces[1]], dim))
        planes.append(plane)
    trace.set(output, planes)
    return output


def embedding(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    weight, index = args[0], args[1]
    planes = []
    for plane in trace.planes(weight):
        left = drop(trace.ids, plane, [0], trace.site("rows looked up by number"))
        if left is None:
            trace.ids.pin(plane, trace.site("rows looked up by number"))
            trace.numbered.append(core(plane).reshape(-1).numpy())
        else:
            planes.append(left.reshape([1] * index.dim() + list(weight.shape[1:])).expand(output.shape))
    trace.set(output, planes)
    return output


def index(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """x[indices]: indexed dimensions keep their length, the others go through."""
    tensor, indices = args[0], args[1]
    if any(isinstance(i, Tensor) and (i.dtype == torch.uint8 or trace.planes(i)) for i in indices):
        return unknown(trace, func, args, kwargs)
    dims = _indexed(indices)
    output = func(*args, **kwargs)
    planes = []
    own = [i.cpu() if isinstance(i, Tensor) else i for i in indices]  # planes lie on the CPU
    for plane in trace.planes(tensor):
        plane = freeze(trace.ids, plane, dims, trace.site("elements looked up by number"))
        planes.append(compact(func(plane, own)))
    trace.set(output, planes)
    return output


def index_put(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """x[rows] = values: the rows keep their number; along the other dimensions what is written meets what was there."""
    tensor, indices, values = args[:3]
    places = [d for d, i in enumerate(indices) if i is not None]
    plain = len(places) == 1 and indices[places[0]].dim() == 1 and indices[places[0]].dtype != torch.uint8
    if not plain or trace.planes(indices[places[0]]):
        return unknown(trace, func, args, kwargs)
    rows = indices[places[0]]
    count = int(rows.sum()) if rows.dtype == torch.bool else len(rows)
    return _written(trace, lambda: func(*args, **kwargs), tensor, trace.planes(values), places[0], count)


def index_add(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """index_add and scatter_add along one dimension: rows of the source are added to rows of the tensor."""
    given = arguments(func, args, kwargs)
    tensor, dim, rows, values = given["self"], given["dim"] % args[0].dim(), given["index"], args[3]
    fits = all(rows.dim() < 2 or rows.size(d) == values.size(d) for d in range(values.dim()))
    alike = all(tensor.size(d) == values.size(d) for d in range(values.dim()) if d != dim)
    widths = trace.planes(rows) if rows.dim() == values.dim() > 1 else []  # rows expanded to the width of the values
    if len(widths) < len(trace.planes(rows)) or any(dim in varying(plane) for plane in widths) or not fits or not alike:
        return unknown(trace, func, args, kwargs)
    planes = [*trace.planes(values), *widths]
    return _written(trace, lambda: func(*args, **kwargs), tensor, planes, dim, values.size(dim))


def _indexed(indices: list[Tensor | None]) -> list[int]:
    """Dimensions that x[indices] looks up; a mask covers as many as it has."""
    dims: list[int] = []
    here = 0
    for entry in indices:
        covered = entry.dim() if entry is not None and entry.dtype == torch.bool else 1
        dims += [] if entry is None else range(here, here + covered)
        here += covered
    return dims


def _written(
    trace: Trace, run: Callable[[], Tensor], tensor: Tensor, values: list[Tensor], dim: int, count: int
) -> Tensor:
    """`count` rows of a tensor along a dimension take values of some planes, by the operation that `run` runs."""
    zeros = not trace.planes(tensor) and not tensor.any()
    output = run()
    shape = list(output.shape)
    reason = trace.site("elements written by number")
    written = []
    for plane in values:
        plane = freeze(trace.ids, plane.expand([*shape[:dim], count, *shape[dim + 1 :]]), [dim], reason)
        written.append(plane.narrow(dim, 0, 1).expand(shape))
    before = [freeze(trace.ids, plane, [dim], reason) for plane in trace.planes(tensor)]
    if zeros or (before and written):
        trace.set(output, merge(trace, [*before, *written], "elements written by number"))
        return output
    for plane in [*before, *written]:
        trace.ids.pin(plane, reason)
    return output


def index_select(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    output = func(*args, **kwargs)
    dim = args[1] % args[0].dim()
    reason = trace.site("elements looked up by number")
    planes = [freeze(trace.ids, plane, [dim], reason) for plane in trace.planes(args[0])]
    trace.set(output, [resized(core(plane), output.shape) for plane in planes])
    return output


def as_strided(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """as_strided_ to the tensor's own shape only changes its memory order."""
    before, planes = args[0].shape, trace.planes(args[0])
    if torch.Size(args[1]) != before:
        return unknown(trace, func, args, kwargs)
    output = func(*args, **kwargs)
    trace.set(output, planes)
    return output


def roi(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """roi_align and roi_pool: (batch, channels, ...) and boxes -> (boxes, channels, ...)."""
    output = func(*args, **kwargs)
    reason = trace.site(plain_name(func))
    for plane in trace.planes(args[1]):
        trace.ids.pin(plane, reason)
    for result in output if isinstance(output, tuple | list) else [output]:
        ids = [vector(trace.ids, plane, 1, reason) for plane in trace.planes(args[0])]
        trace.set(result, [i.view(1, -1, *[1] * (result.dim() - 2)).expand(result.shape) for i in ids])
    return output
