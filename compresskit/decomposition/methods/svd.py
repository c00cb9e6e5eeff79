"""Kinds that cut one matrix of the weight: svd, channel-svd, input-svd, spatial-svd."""

from __future__ import annotations

from torch import Tensor

from . import algebra
from .geometry import Geometry
from .kinds import Kind, Ranks
from .sublayers import CONVS, is_conv, long_axes, pointwise, spatial, with_axes

# svd and channel-svd: k x k to a rank, then 1x1


def _output_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    last = pointwise(layer, ranks[0], layer.out_channels, last=True)
    return [spatial(layer, layer.in_channels, ranks[0]), last]


def _output_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    left, right = algebra.truncated_svd(weight.flatten(1), ranks[0])
    return [right.reshape(-1, *weight.shape[1:]), with_axes(left, weight)]


def output_limits(layer: Geometry) -> Ranks:
    return (min(layer.out_channels, layer.in_channels * layer.taps),)


def output_unfold(weight: Tensor) -> list[Tensor]:
    return [weight.flatten(1)]


def _fits_svd(layer: Geometry) -> bool:
    return layer.taps == 1 and min(layer.in_channels, layer.out_channels) > 1


SVD = Kind(_fits_svd, output_limits, _output_chain, _output_factors, output_unfold, output_side=True)
CHANNEL_SVD = Kind(is_conv, output_limits, _output_chain, _output_factors, output_unfold, output_side=True)


# input-svd: 1x1 to a rank, then k x k


def _input_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    first = pointwise(layer, layer.in_channels, ranks[0])
    return [first, spatial(layer, ranks[0], layer.out_channels, bias=layer.bias)]


def _input_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    (unfolded,) = input_unfold(weight)
    left, right = algebra.truncated_svd(unfolded, ranks[0])  # (in, rank), (rank, out * taps)
    second = right.reshape(ranks[0], weight.shape[0], *weight.shape[2:]).transpose(0, 1)
    return [with_axes(left.mT, weight), second]


def input_unfold(weight: Tensor) -> list[Tensor]:
    return [weight.transpose(0, 1).flatten(1)]


def input_limits(layer: Geometry) -> Ranks:
    return (min(layer.in_channels, layer.out_channels * layer.taps),)


INPUT_SVD = Kind(is_conv, input_limits, _input_chain, _input_factors, input_unfold)


# spatial-svd: the first long axis, then the others


def _fits_spatial(layer: Geometry) -> bool:
    # a depthwise convolution has nothing to cut but its axes
    return layer.form in CONVS and len(long_axes(layer)) >= 2


def _split_axes(layer: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    first = long_axes(layer)[0]
    return (first,), tuple(axis for axis in range(len(layer.kernel)) if axis != first)


def _spatial_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    first, others = _split_axes(layer)
    return [
        spatial(layer, layer.in_channels, ranks[0], first),
        spatial(layer, ranks[0], layer.out_channels, others, bias=layer.bias),
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
    taps = layer.kernel[long_axes(layer)[0]]
    return (min(layer.in_channels * taps, layer.out_channels * layer.taps // taps),)


SPATIAL_SVD = Kind(_fits_spatial, _spatial_limits, _spatial_chain, _spatial_factors, _spatial_unfold)
