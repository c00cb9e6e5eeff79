"""What a kind of decomposition is, and what is done with any: its chain of layers, factors of a weight, and back.

A kind is written for one group; `chain_of` and `factors_of` repeat it for grouped layers. Weights are seen as
(out, in, *kernel), an embedding's as (width, rows). The kinds themselves are in matrices.py, tensors.py and trains.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import InputError
from .geometry import Geometry
from .tt_linear import unfolded

Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """One kind of decomposition.

    Attributes:
        fits: whether a one-group layer can be decomposed this way.
        limits: for each rank, the smallest value that loses nothing (for cp: that is sure to lose nothing).
        chain: the layers, in calling order, at given ranks; the last one takes over the bias.
        factorize: the layers' weights from a weight (out, in, *kernel), best in the Frobenius norm.
        unfold: for each rank, the matrix whose singular values it cuts; none for cp.
        output_side: the last layer spans output directions only, so that fitting to data has a closed form.
        widen: the layers' weights at larger ranks, begun at those of a chain of smaller ranks (weight, ranks, begun);
            of kinds whose factors take long to find.
    """

    fits: Callable[[Geometry], bool]
    limits: Callable[[Geometry], Ranks]
    chain: Callable[[Geometry, Ranks], list[Geometry]]
    factorize: Callable[[Tensor, Ranks], list[Tensor]]
    unfold: Callable[[Tensor], list[Tensor]]
    output_side: bool = False
    widen: Callable[[Tensor, Ranks, list[Tensor]], list[Tensor]] | None = None


def chain_of(kind: Kind, layer: Geometry, ranks: Ranks) -> list[Geometry]:
    """The layers that take the place of `layer`; ranks are per group.

    Raises:
        InputError: if the kind does not fit, or a rank is out of its range.
    """
    group = layer.one_group()
    if not kind.fits(group):
        raise InputError(f"this kind does not fit a {layer.form} layer with kernel {list(layer.kernel)}")
    limits = kind.limits(group)
    if len(ranks) != len(limits) or not all(1 <= rank <= limit for rank, limit in zip(ranks, limits, strict=True)):
        raise InputError(f"rank {list(ranks)} is not between 1 and {list(limits)}")
    return [link.times(layer.groups) for link in kind.chain(group, ranks)]


def factors_of(kind: Kind, layer: Geometry, weight: Tensor, ranks: Ranks) -> list[Tensor]:
    """The weights of the chain that approximates `weight` best in the Frobenius norm.

    Args:
        weight: as the layer holds it.
    """
    parts = [kind.factorize(part, ranks) for part in split_groups(layer, weight)]
    return join_groups(layer, chain_of(kind, layer, ranks), parts)


def widened_factors(
    kind: Kind, layer: Geometry, weight: Tensor, ranks: Ranks, narrow_ranks: Ranks, narrow: list[Tensor]
) -> list[Tensor]:
    """The weights of a chain, begun at those of a chain of smaller ranks; for kinds that can widen.

    Args:
        weight: as the layer holds it.
        narrow: the weights of the chain at `narrow_ranks`, as its links hold them.
    """
    if kind.widen is None:
        raise TypeError("the kind finds its factors afresh at every rank")
    links = chain_of(kind, layer, narrow_ranks)
    begun = zip(*(seen(link, own).chunk(layer.groups) for link, own in zip(links, narrow, strict=True)), strict=True)
    parts = zip(split_groups(layer, weight), begun, strict=True)
    return join_groups(
        layer, chain_of(kind, layer, ranks), [kind.widen(part, ranks, list(own)) for part, own in parts]
    )  # fmt: skip


def seen(layer: Geometry, weight: Tensor) -> Tensor:
    """A weight as all forms of layers share it, (out, in / groups, *kernel), from how the layer holds it."""
    if layer.form in ("embedding", "linear-in-out"):
        return weight.mT
    if layer.form == "conv-transpose":
        return torch.cat([part.transpose(0, 1) for part in weight.chunk(layer.groups)])
    return weight


def held(layer: Geometry, weight: Tensor) -> Tensor:
    """The inverse of `seen`, which undoes itself."""
    return seen(layer, weight)


def split_groups(layer: Geometry, weight: Tensor) -> list[Tensor]:
    """The weight of each group as (out, in, *kernel), from how the layer holds it."""
    return list(seen(layer, weight).chunk(layer.groups))


def rows_of(layer: Geometry, weight: Tensor) -> Tensor:
    """The weight as a matrix whose product with a row of `im2col.input_rows` is the output: (out, columns)."""
    return seen(layer, weight).flatten(1)


def weight_of_rows(layer: Geometry, rows: Tensor) -> Tensor:
    """The inverse of `rows_of`: the weight as the layer holds it."""
    return held(layer, rows.reshape(layer.out_channels, layer.in_channels // layer.groups, *layer.kernel))


def join_groups(layer: Geometry, chain: list[Geometry], parts: list[list[Tensor]]) -> list[Tensor]:
    """The inverse of `split_groups` for the factors of each group: the weights as the chain's links hold them."""
    whole = [torch.cat(same_link) for same_link in zip(*parts, strict=True)]
    return [held(link, factor).contiguous() for link, factor in zip(chain, whole, strict=True)]


def compose(layer: Geometry, chain: list[Geometry], factors: list[Tensor]) -> Tensor:
    """The weight, as the layer holds it, of the one layer that a chain computes; the inverse of `factors_of`.

    Args:
        layer: the layer that the chain replaced.
        chain: the geometry of the chain, of which on each axis at most one link has a kernel above 1.
        factors: the links' weights as they hold them.
    """
    if chain[0].form == "folded":
        return held(layer, unfolded([(link.repeats, link.outer) for link in chain], factors))
    axes = len(layer.kernel)
    parts = []
    for group in range(layer.groups):
        total: Tensor | None = None
        for link, factor in zip(chain, factors, strict=True):
            inner = link.groups // layer.groups
            part = seen(link, factor).chunk(layer.groups)[group]
            total = part if total is None else _then(total, part, inner, axes)
        if total is not None:
            parts.append(total)
    return held(layer, torch.cat(parts))


def _then(first: Tensor, second: Tensor, groups: int, axes: int) -> Tensor:
    """The weight of two layers in a row; `second` may be depthwise (groups == channels) or dense (groups == 1)."""
    if not axes:
        return second @ first
    interleaved = [sub for axis in range(axes) for sub in (first.shape[2 + axis], second.shape[2 + axis])]
    a = first.flatten(2)  # (middle, in, taps1)
    b = second.flatten(2)  # (out, middle / groups, taps2)
    if groups == 1:
        joined = torch.einsum("mia,omb->oiab", a, b)
    else:
        joined = torch.einsum("mia,mb->miab", a, b.squeeze(1))
    joined = joined.reshape(*joined.shape[:2], *first.shape[2:], *second.shape[2:])
    order = [2 + offset + axis for axis in range(axes) for offset in (0, axes)]
    joined = joined.permute(0, 1, *order)
    sizes = [interleaved[2 * axis] * interleaved[2 * axis + 1] for axis in range(axes)]
    return joined.reshape(*joined.shape[:2], *sizes)
