"""Kinds that cut several modes of a kernel at once: tucker2 and cp."""

from __future__ import annotations

from torch import Tensor

from . import algebra
from .geometry import Geometry
from .kinds import Kind, Ranks
from .sublayers import is_conv, pointwise, spatial, with_axes
from .svd import input_limits, input_unfold, output_limits, output_unfold

# tucker2: ranks (in, out)


def _tucker_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    return [
        pointwise(layer, layer.in_channels, ranks[0]),
        spatial(layer, ranks[0], ranks[1]),
        pointwise(layer, ranks[1], layer.out_channels, last=True),
    ]


def _tucker_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    left, core, right = algebra.tucker2(weight.flatten(2), *ranks)
    core = core.reshape(*core.shape[:2], *weight.shape[2:])
    return [with_axes(right, weight), core, with_axes(left, weight)]


def _tucker_limits(layer: Geometry) -> Ranks:
    return input_limits(layer) + output_limits(layer)


def _tucker_unfold(weight: Tensor) -> list[Tensor]:
    return input_unfold(weight) + output_unfold(weight)


TUCKER2 = Kind(is_conv, _tucker_limits, _tucker_chain, _tucker_factors, _tucker_unfold)


# cp: 1x1, depthwise, 1x1


def _cp_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    return [
        pointwise(layer, layer.in_channels, ranks[0]),
        spatial(layer, ranks[0], ranks[0], groups=ranks[0]),
        pointwise(layer, ranks[0], layer.out_channels, last=True),
    ]


def _cp_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    return _cp_links(algebra.cp(weight.flatten(2), ranks[0])[0], weight)


def _cp_widened(weight: Tensor, ranks: Ranks, begun: list[Tensor]) -> list[Tensor]:
    right, taps, left = (factor.flatten(1) for factor in begun)
    return _cp_links(algebra.widen_cp(weight.flatten(2), ranks[0], [left, right.mT, taps.mT]), weight)


def _cp_links(factors: list[Tensor], weight: Tensor) -> list[Tensor]:
    out_factor, in_factor, taps = factors
    depthwise = taps.mT.reshape(-1, 1, *weight.shape[2:])
    return [with_axes(in_factor.mT, weight), depthwise, with_axes(out_factor, weight)]


def _cp_limits(layer: Geometry) -> Ranks:
    sizes = sorted((layer.out_channels, layer.in_channels, layer.taps))
    return (sizes[0] * sizes[1],)


def _no_unfold(weight: Tensor) -> list[Tensor]:
    return []


CP = Kind(is_conv, _cp_limits, _cp_chain, _cp_factors, _no_unfold, widen=_cp_widened)
