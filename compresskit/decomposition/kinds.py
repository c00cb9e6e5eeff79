"""The kinds of decomposition: which layers each fits, the chain of layers at a rank, and the factors of a weight.

A kind is written for one group; `chain_of` and `factors_of` repeat it for grouped layers. Weights are seen as
(out, in, *kernel), an embedding's as (width, rows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ..core.errors import InputError
from . import algebra
from .geometry import Geometry

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
    """

    fits: Callable[[Geometry], bool]
    limits: Callable[[Geometry], Ranks]
    chain: Callable[[Geometry, Ranks], list[Geometry]]
    factorize: Callable[[Tensor, Ranks], list[Tensor]]
    unfold: Callable[[Tensor], list[Tensor]]
    output_side: bool = False


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
        weight: (out, in / groups, *kernel), as the layer holds it.
    """
    parts = [kind.factorize(part, ranks) for part in split_groups(layer, weight)]
    return join_groups(layer, parts)


def split_groups(layer: Geometry, weight: Tensor) -> list[Tensor]:
    """The weight of each group as (out, in, *kernel); an embedding's as (width, rows)."""
    return [weight.mT] if layer.form == "embedding" else list(weight.chunk(layer.groups))


def join_groups(layer: Geometry, parts: list[list[Tensor]]) -> list[Tensor]:
    """The inverse of `split_groups` for the factors of each group."""
    factors = [torch.cat(same_link) for same_link in zip(*parts, strict=True)]
    if layer.form == "embedding":
        factors[0] = factors[0].mT
    return [factor.contiguous() for factor in factors]


def compose(layer: Geometry, chain: list[Geometry], factors: list[Tensor]) -> Tensor:
    """The weight, as the layer holds it, of the one layer that a chain computes; the inverse of `factors_of`.

    Args:
        layer: the layer that the chain replaced.
        chain: the geometry of the chain, of which on each axis at most one link has a kernel above 1.
        factors: the links' weights.
    """
    if layer.form == "embedding":
        return factors[0] @ factors[1].mT
    axes = len(layer.kernel)
    parts = []
    for group in range(layer.groups):
        total = None
        for link, factor in zip(chain, factors, strict=True):
            inner = link.groups // layer.groups
            part = factor.chunk(layer.groups)[group]
            total = part if total is None else _then(total, part, inner, axes)
        parts.append(total)
    return torch.cat(parts)


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


# the links that chains are made of


def _pointwise(layer: Geometry, in_channels: int, out_channels: int, *, last: bool = False) -> Geometry:
    axes = len(layer.kernel)
    form = "linear" if layer.form == "embedding" else layer.form
    return Geometry(
        form, in_channels, out_channels, (1,) * axes, (1,) * axes, (0,) * axes, (1,) * axes, bias=last and layer.bias
    )


def _spatial(
    layer: Geometry, in_channels: int, out_channels: int, axes: tuple[int, ...] | None = None, **changes
) -> Geometry:
    """The layer's own kernel, stride and padding on some axes (default: all), nothing on the others."""

    def on(values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
        return tuple(value if axes is None or axis in axes else neutral for axis, value in enumerate(values))

    padding = layer.padding if isinstance(layer.padding, str) else on(layer.padding, 0)
    changes = {"bias": False, **changes}
    return replace(
        layer, in_channels=in_channels, out_channels=out_channels, kernel=on(layer.kernel, 1),
        stride=on(layer.stride, 1), padding=padding, dilation=on(layer.dilation, 1), **changes,
    )  # fmt: skip


def _long_axes(layer: Geometry) -> list[int]:
    return [axis for axis, taps in enumerate(layer.kernel) if taps > 1]


def _is_conv(layer: Geometry) -> bool:
    return layer.form == "conv" and layer.taps > 1 and layer.in_channels > 1 and layer.out_channels > 1


# svd and channel-svd: k x k to a rank, then 1x1


def _output_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    last = _pointwise(layer, ranks[0], layer.out_channels, last=True)
    return [_spatial(layer, layer.in_channels, ranks[0]), last]


def _output_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    left, right = algebra.truncated_svd(weight.flatten(1), ranks[0])
    return [right.reshape(-1, *weight.shape[1:]), _with_axes(left, weight)]


def _with_axes(matrix: Tensor, weight: Tensor) -> Tensor:
    return matrix.reshape(*matrix.shape, *(1,) * (weight.dim() - 2))


def _output_limits(layer: Geometry) -> Ranks:
    return (min(layer.out_channels, layer.in_channels * layer.taps),)


def _output_unfold(weight: Tensor) -> list[Tensor]:
    return [weight.flatten(1)]


def _fits_svd(layer: Geometry) -> bool:
    return layer.taps == 1 and min(layer.in_channels, layer.out_channels) > 1


SVD = Kind(_fits_svd, _output_limits, _output_chain, _output_factors, _output_unfold, output_side=True)
CHANNEL_SVD = Kind(_is_conv, _output_limits, _output_chain, _output_factors, _output_unfold, output_side=True)


# input-svd: 1x1 to a rank, then k x k


def _input_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    first = _pointwise(layer, layer.in_channels, ranks[0])
    return [first, _spatial(layer, ranks[0], layer.out_channels, bias=layer.bias)]


def _input_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    (unfolded,) = _input_unfold(weight)
    left, right = algebra.truncated_svd(unfolded, ranks[0])  # (in, rank), (rank, out * taps)
    second = right.reshape(ranks[0], weight.shape[0], *weight.shape[2:]).transpose(0, 1)
    return [_with_axes(left.mT, weight), second]


def _input_unfold(weight: Tensor) -> list[Tensor]:
    return [weight.transpose(0, 1).flatten(1)]


def _input_limits(layer: Geometry) -> Ranks:
    return (min(layer.in_channels, layer.out_channels * layer.taps),)


INPUT_SVD = Kind(_is_conv, _input_limits, _input_chain, _input_factors, _input_unfold)


# spatial-svd: the first long axis, then the others


def _fits_spatial(layer: Geometry) -> bool:
    return layer.form == "conv" and len(_long_axes(layer)) >= 2


def _split_axes(layer: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    first = _long_axes(layer)[0]
    return (first,), tuple(axis for axis in range(len(layer.kernel)) if axis != first)


def _spatial_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    first, others = _split_axes(layer)
    return [
        _spatial(layer, layer.in_channels, ranks[0], first),
        _spatial(layer, ranks[0], layer.out_channels, others, bias=layer.bias),
    ]


def _first_long_axis(weight: Tensor) -> int:
    return next(axis for axis in range(2, weight.dim()) if weight.shape[axis] > 1)


def _spatial_unfold(weight: Tensor) -> list[Tensor]:
    axis = _first_long_axis(weight)
    moved = weight.movedim(axis, 0).transpose(1, 2)  # (k, in, out, *others)
    return [moved.reshape(moved.shape[0] * moved.shape[1], -1)]


def _spatial_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    axis = _first_long_axis(weight)
    taps, (out_channels, in_channels) = weight.shape[axis], weight.shape[:2]
    (unfolded,) = _spatial_unfold(weight)
    left, right = algebra.truncated_svd(unfolded, ranks[0])
    first = left.reshape(taps, in_channels, -1).permute(2, 1, 0)  # (rank, in, k)
    first = first.reshape(ranks[0], in_channels, *(taps if a == axis else 1 for a in range(2, weight.dim())))
    others = [1 if a == axis else weight.shape[a] for a in range(2, weight.dim())]
    return [first, right.reshape(ranks[0], out_channels, *others).transpose(0, 1)]


def _spatial_limits(layer: Geometry) -> Ranks:
    taps = layer.kernel[_long_axes(layer)[0]]
    return (min(layer.in_channels * taps, layer.out_channels * layer.taps // taps),)


SPATIAL_SVD = Kind(_fits_spatial, _spatial_limits, _spatial_chain, _spatial_factors, _spatial_unfold)


# tucker2: ranks (in, out)


def _tucker_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    return [
        _pointwise(layer, layer.in_channels, ranks[0]),
        _spatial(layer, *ranks),
        _pointwise(layer, ranks[1], layer.out_channels, last=True),
    ]


def _tucker_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    left, core, right = algebra.tucker2(weight.flatten(2), *ranks)
    core = core.reshape(*core.shape[:2], *weight.shape[2:])
    return [_with_axes(right, weight), core, _with_axes(left, weight)]


def _tucker_limits(layer: Geometry) -> Ranks:
    return _input_limits(layer) + _output_limits(layer)


def _tucker_unfold(weight: Tensor) -> list[Tensor]:
    return _input_unfold(weight) + _output_unfold(weight)


TUCKER2 = Kind(_is_conv, _tucker_limits, _tucker_chain, _tucker_factors, _tucker_unfold)


# cp: 1x1, depthwise, 1x1


def _cp_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    return [
        _pointwise(layer, layer.in_channels, ranks[0]),
        _spatial(layer, ranks[0], ranks[0], groups=ranks[0]),
        _pointwise(layer, ranks[0], layer.out_channels, last=True),
    ]


def _cp_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    (out_factor, in_factor, taps), _ = algebra.cp(weight.flatten(2), ranks[0])
    depthwise = taps.mT.reshape(ranks[0], 1, *weight.shape[2:])
    return [_with_axes(in_factor.mT, weight), depthwise, _with_axes(out_factor, weight)]


def _cp_limits(layer: Geometry) -> Ranks:
    sizes = sorted((layer.out_channels, layer.in_channels, layer.taps))
    return (sizes[0] * sizes[1],)


def _no_unfold(weight: Tensor) -> list[Tensor]:
    return []


CP = Kind(_is_conv, _cp_limits, _cp_chain, _cp_factors, _no_unfold)


# tensor-train: bonds in | axis 1 | axis 2 | ... | out


def _fits_train(layer: Geometry) -> bool:
    return _is_conv(layer) and len(layer.kernel) >= 2 and min(layer.kernel) > 1


def _train_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    links = [_pointwise(layer, layer.in_channels, ranks[0])]
    links += [_spatial(layer, ranks[axis], ranks[axis + 1], (axis,)) for axis in range(len(layer.kernel))]
    return [*links, _pointwise(layer, ranks[-1], layer.out_channels, last=True)]


def _train_order(weight: Tensor) -> Tensor:
    return weight.movedim(0, -1)  # (in, *kernel, out)


def _train_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    first, *middle, last = algebra.tensor_train(_train_order(weight), ranks)
    factors = [_with_axes(first.squeeze(0).mT, weight)]
    for axis, core in enumerate(middle):  # (before, k, after)
        shape = [core.shape[1] if a == axis else 1 for a in range(len(middle))]
        factors.append(core.permute(2, 0, 1).reshape(core.shape[2], core.shape[0], *shape))
    return [*factors, _with_axes(last.squeeze(-1).mT, weight)]


def _train_unfold(weight: Tensor) -> list[Tensor]:
    ordered = _train_order(weight)
    return [ordered.reshape(prod(ordered.shape[: axis + 1]), -1) for axis in range(ordered.dim() - 1)]


def _train_limits(layer: Geometry) -> Ranks:
    sizes = (layer.in_channels, *layer.kernel, layer.out_channels)
    return tuple(min(prod(sizes[:cut]), prod(sizes[cut:])) for cut in range(1, len(sizes)))


TENSOR_TRAIN = Kind(_fits_train, _train_limits, _train_chain, _train_factors, _train_unfold)
