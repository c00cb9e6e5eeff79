"""Interpolation along one axis as a matrix, so that the size may be a value of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

_SHARPNESS = -0.75  # of the cubic kernel, as F.interpolate has it


def linear_weights(places: Tensor, sizes: Tensor, cells: int) -> Tensor:
    """What each cell weighs at each place of a row that is resized linearly, as F.interpolate does it.

    Args:
        places: positions in the resized row, any shape; those outside of it are extrapolated by its ends.
        sizes: lengths of the resized rows, broadcast with `places`.
        cells: length of the row.
    Returns:
        (*places, cells); a row times these is the resized row (align_corners False).
    """
    source = ((places + 0.5) * (cells / sizes) - 0.5).clamp(min=0)
    low = source.floor()
    share = source - low
    return _at(low, cells) * (1 - share)[..., None] + _at(low + 1, cells) * share[..., None]


def cubic_weights(places: Tensor, sizes: Tensor, cells: int) -> Tensor:
    """The same for bicubic resizing.

    Source: Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, eq. 15, with a = -0.75.
    """
    source = (places + 0.5) * (cells / sizes) - 0.5
    low, a = source.floor(), _SHARPNESS
    weights = torch.zeros_like(source)[..., None].expand(*source.shape, cells)
    for step in (-1, 0, 1, 2):
        gap = (source - low - step).abs()
        near = ((a + 2) * gap - (a + 3)) * gap * gap + 1
        far = ((a * gap - 5 * a) * gap + 8 * a) * gap - 4 * a
        weights = weights + _at(low + step, cells) * (near if step in (0, 1) else far)[..., None]
    return weights


def _at(places: Tensor, cells: int) -> Tensor:
    """1 at the cell of each place, the nearest one for places outside; (*places, cells)."""
    numbers = torch.arange(cells, device=places.device, dtype=places.dtype)
    return (places.clamp(0, cells - 1)[..., None] == numbers).to(places.dtype)
