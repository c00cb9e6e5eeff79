"""Tensor-train, of a convolution over its axes and of a linear layer whose sides are cut into factors."""

from __future__ import annotations

from math import prod

from torch import Tensor

from . import algebra
from .geometry import Geometry
from .kinds import Kind, Ranks
from .sublayers import is_conv, pointwise, spatial, with_axes

_THREE_MODES_FROM = 2**18  # elements of a matrix

# convolutions: bonds in | axis 1 | axis 2 | ... | out


def _conv_fits(layer: Geometry) -> bool:
    return is_conv(layer) and len(layer.kernel) >= 2 and min(layer.kernel) > 1


def _conv_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    links = [pointwise(layer, layer.in_channels, ranks[0])]
    links += [spatial(layer, ranks[axis], ranks[axis + 1], (axis,)) for axis in range(len(layer.kernel))]
    return [*links, pointwise(layer, ranks[-1], layer.out_channels, last=True)]


def _conv_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    first, *middle, last = algebra.tensor_train(_ordered(weight), ranks)
    factors = [with_axes(first.squeeze(0).mT, weight)]
    for axis, core in enumerate(middle):  # (before, k, after)
        shape = [core.shape[1] if a == axis else 1 for a in range(len(middle))]
        factors.append(core.permute(2, 0, 1).reshape(core.shape[2], core.shape[0], *shape))
    return [*factors, with_axes(last.squeeze(-1).mT, weight)]


# linear layers: both sides are cut into factors, and a bond stands between factors (o1 i1) | (o2 i2) | ...


def modes_of(out_features: int, in_features: int) -> list[tuple[int, int]]:
    """The factors (o, i) that the sides of a matrix are cut into: two a side, or three for matrices of 2^18 or more."""
    count = 3 if out_features * in_features >= _THREE_MODES_FROM else 2
    return list(zip(_factors(out_features, count), _factors(in_features, count), strict=True))


def _factors(size: int, count: int) -> list[int]:
    """`count` factors of a number, smallest first, each as near to the equal share as the number allows."""
    found = []
    for left in range(count, 1, -1):
        share = round(size ** (1 / left))
        found.append(next(divisor for divisor in range(share, 0, -1) if size % divisor == 0))
        size //= found[-1]
    return [*found, size]


def _linear_fits(layer: Geometry) -> bool:
    if layer.form not in ("linear", "linear-in-out"):
        return False
    return all(o * i > 1 for o, i in modes_of(layer.out_channels, layer.in_channels))


def _linear_chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    modes = modes_of(layer.out_channels, layer.in_channels)
    bonds = (1, *ranks, 1)
    links = []
    for number in range(len(modes) - 1, -1, -1):
        o, i = modes[number]
        # the inputs not yet read, and the outputs already made
        repeats = prod(i for _, i in modes[:number]) * prod(o for o, _ in modes[number + 1 :])
        links.append(
            Geometry("folded", i * bonds[number + 1], bonds[number] * o, bias=layer.bias and number == 0,
                     repeats=repeats, outer=o)
        )  # fmt: skip
    return links


def _linear_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    modes = modes_of(*weight.shape)
    cores = algebra.tensor_train(_ordered(weight), ranks)
    factors = []
    for (o, i), core in zip(modes, cores, strict=True):  # (before, o * i, after)
        before, _, after = core.shape
        factors.append(core.reshape(before * o, i * after))
    return factors[::-1]


# both


def _ordered(weight: Tensor) -> Tensor:
    """The tensor whose train is taken: (in, *kernel, out), or (o1 i1, o2 i2, ...) for a linear layer."""
    if weight.dim() > 2:
        return weight.movedim(0, -1)
    modes = modes_of(*weight.shape)
    count = len(modes)
    split = weight.reshape(*(o for o, _ in modes), *(i for _, i in modes))
    pairs = split.permute(*(axis for mode in range(count) for axis in (mode, count + mode)))
    return pairs.reshape(*(o * i for o, i in modes))


def _fits(layer: Geometry) -> bool:
    return _conv_fits(layer) or _linear_fits(layer)


def _chain(layer: Geometry, ranks: Ranks) -> list[Geometry]:
    return _conv_chain(layer, ranks) if layer.kernel else _linear_chain(layer, ranks)


def _train_factors(weight: Tensor, ranks: Ranks) -> list[Tensor]:
    return _conv_factors(weight, ranks) if weight.dim() > 2 else _linear_factors(weight, ranks)


def _unfold(weight: Tensor) -> list[Tensor]:
    ordered = _ordered(weight)
    return [ordered.reshape(prod(ordered.shape[: axis + 1]), -1) for axis in range(ordered.dim() - 1)]


def _limits(layer: Geometry) -> Ranks:
    if layer.kernel:
        sizes = (layer.in_channels, *layer.kernel, layer.out_channels)
    else:
        sizes = tuple(o * i for o, i in modes_of(layer.out_channels, layer.in_channels))
    return tuple(min(prod(sizes[:cut]), prod(sizes[cut:])) for cut in range(1, len(sizes)))


TENSOR_TRAIN = Kind(_fits, _limits, _chain, _train_factors, _unfold)
