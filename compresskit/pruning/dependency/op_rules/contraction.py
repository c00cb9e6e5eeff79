"""Contractions: convolution, matrix products and attention consume ids along one dimension and make new ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..channel_ids import along, compact, core, freeze, varying, vector
from .elementwise import elementwise, merge, paired
from .schema import arguments, flat, plain_name, unknown

Trace = Any


def convolution(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Tensor:
    """aten::convolution, plain, grouped, depthwise and transposed."""
    x, weight, bias = args[0], args[1], args[2]
    transposed, groups = args[6], int(args[8])
    output = func(trace.masked(x), *args[1:], **kwargs)
    reason = trace.site("convolution")
    space = list(range(2, x.dim()))
    planes = [freeze(trace.ids, plane, space, reason) for plane in trace.planes(x)]
    through = [p for p in planes if varying(p) == (0,)]
    channels = [p for p in planes if 1 in varying(p)]
    x_ids = vector(trace.ids, merge(trace, channels, "convolution")[0], 1, reason) if channels else None
    in_ids, out_ids = _weight_ids(trace, weight, transposed, reason)
    in_axis, out_axis = trace.axis(weight, 0 if transposed else 1), trace.axis(weight, 1 if transposed else 0)
    made = _grouped(trace, weight, x_ids, in_ids, out_ids, groups, x.size(1), output.size(1), transposed)
    positions = (x if transposed else output)[0, 0].numel() * weight[0, 0].numel() * output.size(0)
    trace.cost(positions, [in_axis, out_axis])
    if made is None:
        for plane in channels:
            trace.ids.pin(plane, f"{reason} with weights that are not parameters")
        trace.set(output, [_first(plane, output.shape) for plane in through])
        return output
    if bias is not None:
        for plane in trace.planes(bias):
            trace.ids.unite(plane, made, reason)
    trace.set(output, [along(1, made, output.shape), *(_first(plane, output.shape) for plane in through)])
    return output


def deformable_convolution(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Tensor:
    """torchvision's deform_conv2d: as a convolution; the channels of offsets and masks are kernel positions and stay.

    With several groups, of the weights or of the offsets, the same channels go from each.
    """
    names = arguments(func, args, kwargs)
    x, weight, bias = names["input"], names["weight"], names["bias"]
    reason = trace.site("deform_conv2d")
    output = func(trace.masked(x), *args[1:], **kwargs)
    for tensor in (names["offset"], names["mask"]):
        for plane in trace.planes(tensor):
            trace.ids.pin(plane, f"{reason} reads offsets by position")
    channels = [plane for plane in trace.planes(x) if 1 in varying(plane)]
    x_ids = vector(trace.ids, merge(trace, channels, "deform_conv2d")[0], 1, reason) if channels else None
    in_ids, made = _weight_ids(trace, weight, False, reason)
    same = f"{reason} loses the same channels of each group"
    groups = int(names["groups"])
    if x_ids is not None:
        freeze(trace.ids, x_ids.view(int(names["offset_groups"]), -1), [0], same)
        x_ids = freeze(trace.ids, x_ids.view(groups, -1), [0], same)[0]
    if made is not None and groups > 1:
        freeze(trace.ids, made.view(groups, -1), [0], same)
    _meet(trace, weight, x_ids, in_ids, reason)
    trace.cost(
        output[0, 0].numel() * weight[0, 0].numel() * output.size(0), [trace.axis(weight, 1), trace.axis(weight, 0)]
    )
    for plane in trace.planes(bias):
        trace.ids.unite(plane, made, reason)
    trace.set(output, [] if made is None else [along(1, made, output.shape)])
    return output


def _first(plane: Tensor, shape: torch.Size) -> Tensor:
    small = core(plane)
    return small.expand([shape[0], *shape[1:]])


def _weight_ids(trace: Trace, weight: Tensor, transposed: bool, reason: str) -> tuple[Tensor | None, Tensor | None]:
    """Ids along a convolution weight's input and output dimensions."""
    found: dict[int, Tensor] = {}
    for dim in (0, 1):
        planes = [plane for plane in trace.planes(weight) if dim in varying(plane)]
        if planes:
            found[dim] = vector(trace.ids, merge(trace, planes, "convolution")[0], dim, reason)
        elif weight.size(dim) == 1 and trace.planes(weight) and id(weight) in trace.stored:
            found[dim] = trace.stored[id(weight)].ids[dim]
    for plane in trace.planes(weight):  # a kernel's own positions never go
        freeze(trace.ids, plane, list(range(2, weight.dim())), reason)
    return (found.get(0), found.get(1)) if transposed else (found.get(1), found.get(0))


def _grouped(
    trace: Trace,
    weight: Tensor,
    x_ids: Tensor | None,
    in_ids: Tensor | None,
    out_ids: Tensor | None,
    groups: int,
    in_channels: int,
    out_channels: int,
    transposed: bool,
) -> Tensor | None:  # fmt: skip
    """Tie a convolution's inputs to its weight; returns the ids of its outputs."""
    reason = trace.site("convolution")
    if groups == 1:
        _meet(trace, weight, x_ids, in_ids, reason)
        return out_ids
    if transposed:  # weight (in, out / groups, ...): the in dimension holds all groups
        in_ids, out_ids = out_ids, in_ids
        ins, outs = (out_ids, None if in_ids is None else in_ids)
        return _transposed_groups(trace, x_ids, ins, outs, groups, in_channels, out_channels, reason)
    if out_ids is None:
        return None
    if x_ids is None:  # channels that cannot go, so their filters stay as well
        for ids in (in_ids, out_ids):
            if ids is not None:
                trace.ids.pin(ids, f"{reason} of channels of fixed number")
        return out_ids
    width, made = in_channels // groups, out_channels // groups
    if width == 1:  # depthwise: output channels follow their input channel
        if in_ids is not None:
            trace.ids.pin(in_ids, "a depthwise convolution reads one channel a filter")
        trace.ids.unite(x_ids.view(-1, 1).expand(-1, made), out_ids.view(-1, made), reason)
        return out_ids
    x_rows, out_rows = x_ids.view(groups, width), out_ids.view(groups, made)
    if groups >= width:  # whole groups go
        tied = freeze(trace.ids, x_rows, [1], f"{reason} loses whole groups")[:, :1]
        trace.ids.unite(out_rows, tied.expand(-1, made), f"{reason} loses whole groups")
        if in_ids is not None:
            freeze(trace.ids, in_ids, [0], f"{reason} loses whole groups")
            trace.ids.pin(in_ids, f"{reason} loses whole groups")
        return out_ids
    same = f"{reason} loses the same channels of each group"
    x_tied = freeze(trace.ids, x_rows, [0], same)[0]
    freeze(trace.ids, out_rows, [0], same)
    _meet(trace, weight, x_tied, in_ids, reason)
    return out_ids


def _transposed_groups(
    trace: Trace, x_ids: Tensor | None, in_ids: Tensor | None, out_ids: Tensor | None, groups: int,
    in_channels: int, out_channels: int, reason: str,
) -> Tensor | None:  # fmt: skip
    for ids in (x_ids, in_ids, out_ids):
        if ids is not None:
            trace.ids.pin(ids, f"{reason}, transposed and grouped")
    ids = trace.ids.new(out_channels)
    trace.ids.pin(ids, f"{reason}, transposed and grouped")
    return ids


def _meet(trace: Trace, weight: Tensor, left: Tensor | None, right: Tensor | None, reason: str) -> None:
    """Two operands are summed over a common dimension; where one is a constant, it keeps its length."""
    if left is not None and right is not None:
        trace.ids.unite(left, right, reason)
    if right is not None:
        trace.consume(weight, right)
    for ids in (left, right):
        if ids is not None and (left is None or right is None):
            trace.ids.pin(ids, f"{reason} with a tensor of fixed size")


def matrix(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Tensor:
    """mm and bmm: (..., m, k) x (..., k, n)."""
    left, right = args[0], args[1]
    output = func(trace.masked(left), trace.masked(right), *args[2:], **kwargs)
    _consume(trace, left, right)
    planes = product(trace, trace.planes(left), left.shape, trace.planes(right), right.shape, "matmul")
    trace.set(output, planes)
    _product_cost(trace, planes, output.shape, trace.planes(left) or trace.planes(right), left, right)
    return output


def _consume(trace: Trace, left: Tensor, right: Tensor) -> None:
    for tensor, inner in ((left, left.dim() - 1), (right, right.dim() - 2)):
        for plane in trace.planes(tensor):
            if inner in varying(plane):
                trace.consume(tensor, plane)


def _product_cost(
    trace: Trace, planes: list[Tensor], shape: torch.Size, _unused: Any, left: Tensor, right: Tensor
) -> None:
    inner = trace.axis(left, left.dim() - 1)
    if not inner.planes:
        inner = trace.axis(right, right.dim() - 2)
    outer = [trace.axis_of([p for p in planes if varying(p)], d, shape[d]) for d in range(len(shape))]
    trace.cost(1, [inner, *outer])


def added_matrix(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Tensor:
    """addmm and baddbmm: a bias, then a product."""
    bias, left, right = args[0], args[1], args[2]
    output = func(bias, trace.masked(left), trace.masked(right), *args[3:], **kwargs)
    _consume(trace, left, right)
    planes = product(trace, trace.planes(left), left.shape, trace.planes(right), right.shape, "matmul")
    _product_cost(trace, planes, output.shape, None, left, right)
    made = output.detach()
    trace.set(made, planes)
    trace.set(output, elementwise(trace, [made, bias], output.shape, "bias"))
    return output


def experts(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Tensor:
    """_grouped_mm of a mixture of experts: rows sorted by expert (rows, k) x (experts, k, n), a matrix an expert.

    The same inputs and outputs go from every expert; experts and rows keep their number.
    """
    given = arguments(func, args, kwargs)
    left, right = args[0], args[1]
    others = [x for x in flat(args[2:], kwargs) if isinstance(x, Tensor)]
    if left.dim() != 2 or right.dim() != 3 or any(trace.planes(other) for other in others):
        return unknown(trace, func, args, kwargs)
    output = func(trace.masked(left), trace.masked(right), *args[2:], **kwargs)
    reason = trace.site("product of experts")
    rows = [freeze(trace.ids, plane, [0], f"{reason} sorts rows by expert") for plane in trace.planes(left)]
    matrices = [freeze(trace.ids, plane, [0], f"{reason} numbers its experts") for plane in trace.planes(right)]
    entered = _ids_along(trace, rows, 1, reason)
    read, made = (_ids_along(trace, matrices, dim, reason) for dim in (1, 2))
    _meet(trace, right, entered, read, reason)
    trace.set(output, [] if made is None else [along(1, made, output.shape)])
    trace.numbered += [core(plane).reshape(-1).numpy() for plane in trace.planes(right) if varying(plane) == (0,)]
    if plain_name(func) == "_grouped_mm":  # the kernel reads rows that start at multiples of 16 bytes
        step = max(1, 16 // right.element_size())
        trace.multiples += [(ids.numpy(), step) for ids in (entered, read, made) if ids is not None]
    inner = trace.axis(left, 1) if entered is not None else trace.axis(right, 1)
    trace.cost(int(given["offs"][-1]) if given.get("offs") is not None else len(left), [inner, trace.axis(output, 1)])
    return output


def _ids_along(trace: Trace, planes: list[Tensor], dim: int, reason: str) -> Tensor | None:
    """The ids along one dimension, (size,), all planes that change along it as one; None where none does."""
    changing = merge(trace, [plane for plane in planes if dim in varying(plane)], "product of experts")
    return vector(trace.ids, changing[0], dim, reason) if changing else None


def product(
    trace: Trace, left: list[Tensor], left_shape: torch.Size, right: list[Tensor], right_shape: torch.Size, what: str
) -> list[Tensor]:
    """Planes of a matrix product (..., m, k) x (..., k, n) from those of its operands."""
    shape = [*left_shape[:-1], right_shape[-1]]
    last = len(shape) - 1
    reason = trace.site(what)
    inner_left = [p for p in left if last in varying(p)]
    inner_right = [p for p in right if last - 1 in varying(p)]
    if flattened_alike(trace, inner_left, inner_right, what):
        inner_left = inner_right = []
    inner_left, inner_right = merge(trace, inner_left, what), merge(trace, inner_right, what)
    result = [core(p, [last]).narrow(last, 0, 1).expand(shape) for p in left if last not in varying(p)]
    result += [core(p, [last - 1]).narrow(last - 1, 0, 1).expand(shape) for p in right if last - 1 not in varying(p)]
    inner_left = [freeze(trace.ids, p, [last - 1], reason) for p in inner_left]
    inner_right = [freeze(trace.ids, p, [last], reason) for p in inner_right]
    if inner_left and inner_right:
        trace.ids.unite(inner_left[0].select(last - 1, 0), inner_right[0].select(last, 0), reason)
    if bool(inner_left) != bool(inner_right):
        for plane in (*inner_left, *inner_right):
            freeze(trace.ids, plane, [last, last - 1], f"{reason} with a tensor of fixed size")
    for number, plane in enumerate((*inner_left, *inner_right)):
        inner = last if number < len(inner_left) else last - 1
        batch = [d for d in varying(plane) if d < last - 1]
        if not batch:
            continue
        if trace.attention == "dims":
            freeze(trace.ids, plane, batch, f"{reason}: the same dimensions go from every head")
            continue
        whole = freeze(trace.ids, plane, [inner], f"{reason}: whole heads go")
        result.append(whole.narrow(inner, 0, 1).narrow(last if inner == last - 1 else last - 1, 0, 1).expand(shape))
    merged = merge(trace, result, what)
    if trace.attention == "dims":
        for i, plane in enumerate(merged):
            dims = varying(plane)
            if len(dims) > 1 and any(d >= last - 1 for d in dims):
                same = f"{reason}: the same dimensions go from every head"
                merged[i] = freeze(trace.ids, plane, [d for d in dims if d < last - 1], same)
    return merged


def flattened_alike(trace: Trace, left: list[Tensor], right: list[Tensor], what: str) -> bool:
    """Whether two operands sum over a dimension that both flattened alike; then equal planes are tied.

    (batch, features x functions) x (features x functions, out): features meet features and functions functions.
    """
    if len(left) < 2 or len(left) != len(right) or any(len(varying(plane)) > 1 for plane in (*left, *right)):
        return False
    rows = [[core(plane).reshape(-1) for plane in planes] for planes in (left, right)]
    owners = [0] * len(left) + [1] * len(right)
    pairs = paired(trace, [(ids, {owner}) for ids, owner in zip(rows[0] + rows[1], owners, strict=True)], what)
    return all(len(who) == 2 for _, who in pairs)


def attention(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Scaled dot-product attention, (batch, heads, tokens, dims) each."""
    names = arguments(func, args, kwargs)
    query, key, value = names["query"], names["key"], names["value"]
    output = func(*(trace.masked(t) if t is query or t is key or t is value else t for t in args), **kwargs)
    result = output[0] if isinstance(output, tuple | list) else output
    q, k, v = (trace.planes(t) for t in (query, key, value))
    reason = trace.site("attention")
    if names.get("scale") is None:  # the kernel scales by the number of dimensions, which therefore stays
        q = [freeze(trace.ids, p, [query.dim() - 1], f"{reason} scales by the number of dimensions") for p in q]
        k = [freeze(trace.ids, p, [key.dim() - 1], f"{reason} scales by the number of dimensions") for p in k]
    if key.dim() == 4 and key.size(1) != query.size(1):  # several query heads share a key and value head
        times = query.size(1) // key.size(1)
        k, v = ([compact(p.repeat_interleave(times, 1)) for p in planes] for planes in (k, v))
        key, value = (t[:, :1].expand(-1, query.size(1), -1, -1) for t in (key, value))
    turned = torch.Size([*key.shape[:-2], key.size(-1), key.size(-2)])
    scores = product(trace, q, query.shape, [p.transpose(-1, -2) for p in k], turned, "attention")
    shape = torch.Size([*query.shape[:-1], key.size(-2)])
    last = len(shape) - 1
    mask = names.get("attn_mask", names.get("attn_bias"))
    if mask is not None:
        made = mask.new_empty(()).expand(shape)
        trace.set(made, scores)
        scores = elementwise(trace, [made, mask], shape, "attention mask")
    scores = [freeze(trace.ids, plane, [last], reason) for plane in scores]
    scores = [plane for plane in scores if varying(plane)]
    planes = product(trace, scores, shape, v, value.shape, "attention")
    trace.set(result, planes)
    heads = [trace.axis_of(planes, d, shape[d]) for d in range(last)]
    inner = trace.axis(query, query.dim() - 1)
    trace.cost(key.size(-2), [*heads, inner])
    trace.cost(key.size(-2), [*heads, trace.axis_of(planes, last, value.size(-1))])
    return output
