"""Bringing the id planes of several operands together: element-wise operations and concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..channel_ids import compact, core, freeze, varying
from .factories import meet_repeated

Trace = Any


def merge(trace: Trace, planes: Sequence[Tensor], what: str, owners: Sequence[int] | None = None) -> list[Tensor]:
    """Planes of one shape as few planes as possible: those that change along a common dimension are tied and become
    one.

    Args:
        trace: the run.
        planes: planes of one shape.
        what: the operation, for messages.
        owners: the operand of each plane; planes of one operand alone stay apart, since nothing new meets them
            (channels and kernel positions of a flattened weight).
    """
    owned = [{owner} for owner in (owners or range(len(planes)))]
    pairs = sorted(zip(planes, owned, strict=True), key=lambda pair: len(varying(pair[0])))
    if owners is not None and len(set(owners)) < len(owners):
        pairs = paired(trace, pairs, what)
    result: list[tuple[Tensor, set[int]]] = []
    # weights and biases within heads meet first
    for plane, mine in pairs:
        while True:
            dims = set(varying(plane))
            partner = next((i for i, (other, theirs) in enumerate(result)
                            if dims & set(varying(other)) and theirs != mine), None)  # fmt: skip
            if partner is None:
                break
            other, theirs = result.pop(partner)
            plane, mine = _united(trace, plane, other, what), mine | theirs
        result.append((plane, mine))
    return [plane for plane, _ in result]


def paired(trace: Trace, pairs: list[tuple[Tensor, set[int]]], what: str) -> list[tuple[Tensor, set[int]]]:
    """Tie planes of different operands that part a dimension in the same way.

    A flattened (features, basis functions) changes with its features and with its functions. Where another operand is
    flattened alike, features meet features and functions functions.
    """
    result: list[tuple[Tensor, set[int]]] = []
    for plane, mine in pairs:
        free = [i for i, (other, theirs) in enumerate(result) if not mine & theirs and varying(plane) == varying(other)]
        partner = next((i for i in free if _alike(plane, result[i][0])), None)
        if partner is None:
            result.append((plane, mine))
            continue
        other, theirs = result[partner]
        trace.ids.unite(plane, other, trace.site(what))
        result[partner] = (other, mine | theirs)
    return result


def _alike(left: Tensor, right: Tensor) -> bool:
    """Whether the positions that share an id are the same in two planes."""
    first, second = (core(plane).reshape(-1) for plane in (left, right))
    if first.shape != second.shape:
        return False
    pairs = torch.stack([first, second]).unique(dim=1).shape[1]
    return pairs == len(first.unique()) == len(second.unique())


def _united(trace: Trace, left: Tensor, right: Tensor, what: str) -> Tensor:
    """Tie two planes that change along a common dimension.

    Where one changes along (heads, dims) and the other along dims alone (rotary embeddings, norms within heads), whole
    heads go, so neither loses dims and the heads stay apart.
    """
    small, large = sorted((left, right), key=lambda p: len(varying(p)))
    inner, outer = varying(small), varying(large)
    if trace.attention == "heads" and len(inner) < len(outer) and outer[-len(inner) :] == inner:
        reason = trace.site(f"{what}: whole heads go")
        freeze(trace.ids, small, inner, reason)
        return freeze(trace.ids, large, inner, reason)
    trace.ids.unite(small, large, trace.site(what))
    return small


def elementwise(trace: Trace, tensors: Sequence[Tensor], shape: torch.Size, what: str) -> list[Tensor]:
    """Planes of an element-wise operation's output.

    A dimension along which an operand has more than one element but no channels keeps its length; one element
    repeated (stride 0) takes any.
    """
    planes: list[Tensor] = []
    owners: list[int] = []
    operands = []
    for number, tensor in enumerate(tensors):
        own = trace.planes(tensor)
        if tensor.dim() > len(shape):
            for plane in own:
                trace.ids.pin(plane, trace.site(what))
            continue
        pad = len(shape) - tensor.dim()
        wide = [plane.expand(shape) if plane.shape != shape else plane for plane in own] if _fits(tensor, shape) else []
        if own and not wide:
            for plane in own:
                trace.ids.pin(plane, trace.site(what))
        planes += wide
        owners += [number] * len(wide)
        if tensor.dim():
            changing = {d for plane in wide for d in varying(plane)}
            fixed = {
                d + pad
                for d, size in enumerate(tensor.shape)
                if size > 1 and (tensor.layout != torch.strided or tensor.stride(d))
            }
            operands.append(fixed - changing)
    if len(planes) == 1 and len(operands) == 1:
        return planes
    merged = merge(trace, planes, what, owners)
    for number, plane in enumerate(merged):
        held = sorted({d for d in varying(plane) for operand in operands if d in operand})
        if held:
            merged[number] = freeze(trace.ids, plane, held, trace.site(f"{what} with a tensor of fixed size"))
    return meet_repeated(trace, tensors, merged, len(shape), what)


def _fits(tensor: Tensor, shape: torch.Size) -> bool:
    sizes = shape[len(shape) - tensor.dim() :] if tensor.dim() else ()
    return all(mine in (1, whole) for mine, whole in zip(tensor.shape, sizes, strict=True))


def join(trace: Trace, tensors: Sequence[Tensor], dim: int, shape: torch.Size) -> list[Tensor]:
    """Planes of a concatenation along `dim`."""
    what = "cat"
    tensors = [tensor for tensor in tensors if tensor.numel()]
    through: list[Tensor] = []
    pieces: list[Tensor | None] = []
    fixed: list[set[int]] = []
    for tensor in tensors:
        mine: Tensor | None = None
        changing: set[int] = set()
        for plane in trace.planes(tensor):
            changing |= set(varying(plane))
            if dim in varying(plane):
                if mine is not None:
                    trace.ids.unite(mine, plane, trace.site(what))
                mine = plane if mine is None else mine
            else:
                through.append(_stretched(plane, dim, shape[dim]))
        pieces.append(mine)
        fixed.append({d for d, size in enumerate(tensor.shape) if size > 1 and d != dim} - changing)
    result = merge(trace, through, what)
    if any(piece is not None for piece in pieces):
        result.append(_concatenate(trace, tensors, pieces, dim))
    for number, plane in enumerate(result):
        dims = sorted({d for d in varying(plane) for dims in fixed if d in dims})
        result[number] = freeze(trace.ids, plane, dims, trace.site(f"{what} with a tensor of fixed size"))
    return result


def _stretched(plane: Tensor, dim: int, size: int) -> Tensor:
    return core(plane, [dim]).narrow(dim, 0, 1).expand([*plane.shape[:dim], size, *plane.shape[dim + 1 :]])


def _concatenate(trace: Trace, tensors: Sequence[Tensor], pieces: Sequence[Tensor | None], dim: int) -> Tensor:
    columns = []
    for tensor, piece in zip(tensors, pieces, strict=True):
        if piece is None:  # channels of a constant stay
            ids = trace.ids.new(tensor.size(dim))
            if len(ids):
                trace.ids.pin(ids, trace.site("cat of channels that are constant"))
            view = [1] * tensor.dim()
            view[dim] = len(ids)
            piece = ids.view(view).expand(tensor.shape)
        columns.append(piece)
    common = [d for d in range(tensors[0].dim()) if d != dim and all(d not in varying(column) for column in columns)]
    shape = list(tensors[0].shape)
    small = compact(torch.cat([core(column, common) for column in columns], dim))
    shape[dim] = small.size(dim)
    return small.expand(shape)
