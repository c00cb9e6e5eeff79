"""Uniform quantization of tensors: scales, codes, and back. Pure functions.

A weight is seen as a matrix, (rows, columns), one row an output channel. Scales are (rows or 1, groups):
`tensor` shares one, (1, 1); `channel` has one a row, (rows, 1); `group` has one for every `group_size`
consecutive columns of a row, (rows, ceil(columns / group_size)).

Codes are unsigned, in [0, 2**bits); value = (code - zero_point) * scale. Symmetric ranges have the zero point
2**(bits - 1) in common, so it need not be stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# a range narrower than this is a constant; the scale of an all-zero row is irrelevant, but must not be zero
SMALLEST_SCALE = 1e-12


def highest_code(bits: int) -> int:
    """The largest unsigned code of `bits` bits."""
    return (1 << bits) - 1


def middle_code(bits: int) -> int:
    """The zero point of symmetric ranges."""
    return 1 << (bits - 1)


def lowest_symmetric_code(bits: int) -> int:
    """The smallest code that a symmetric range uses.

    Eight bits leave out -128, as integer kernels want; fewer bits cannot spare a level.
    """
    return 1 if bits == 8 else 0


def group_columns(matrix: Tensor, group_size: int | None) -> Tensor:
    """(rows, columns) -> (rows, groups, group_size), the last group filled up by repeating its last column."""
    rows, columns = matrix.shape
    size = group_size or columns
    missing = -columns % size
    if missing:
        matrix = torch.cat([matrix, matrix[:, -1:].expand(rows, missing)], 1)
    return matrix.reshape(rows, -1, size)


def expand_groups(scale: Tensor, columns: int, group_size: int | None) -> Tensor:
    """Scales of (rows or 1, groups) so that they broadcast against (rows, columns)."""
    if scale.shape[1] == 1 or not group_size:
        return scale
    return scale.repeat_interleave(group_size, 1)[:, :columns]


def weight_ranges(matrix: Tensor, granularity: str, group_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of each set of weights that shares a scale.

    Args:
        matrix: (rows, columns).
        granularity: "tensor", "channel" or "group".
        group_size: columns a group, for "group".
    Returns:
        two tensors of (1, 1), (rows, 1) or (rows, groups).
    """
    if granularity == "tensor":
        return matrix.min().reshape(1, 1), matrix.max().reshape(1, 1)
    groups = group_columns(matrix, group_size if granularity == "group" else None)
    return groups.amin(2), groups.amax(2)


def range_to_scale(low: Tensor, high: Tensor, bits: int, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The scale and zero point with which codes of `bits` bits cover [low, high].

    Args:
        low, high: any equal shapes; zero is always made part of the range, so that it is exact.
        bits: 2 to 8.
        symmetric: zero point fixed in the middle; else the range's own.
    Returns:
        scale (float32) and zero_point (int32), shaped like low.
    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", CVPR 2018, section 2.1 and eq. 13.
    """
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    top, middle = highest_code(bits), middle_code(bits)
    if symmetric:
        levels_below = middle - lowest_symmetric_code(bits)
        levels_above = top - middle
        scale = torch.maximum(-low / levels_below, high / levels_above).clamp(min=SMALLEST_SCALE)
        return scale, torch.full_like(scale, middle, dtype=torch.int32)
    scale = ((high - low) / top).clamp(min=SMALLEST_SCALE)
    return scale, torch.round(-low / scale).clamp(0, top).to(torch.int32)


def quantize(values: Tensor, scale: Tensor, zero_point: Tensor | int, bits: int, lowest: int = 0) -> Tensor:
    """Codes nearest to the values (ties to even), saturating; float tensor of whole numbers in [lowest, 2**bits)."""
    return torch.clamp(torch.round(values / scale) + zero_point, lowest, highest_code(bits))


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | int) -> Tensor:
    """Values that the codes stand for, float32."""
    return (codes.to(torch.float32) - zero_point) * scale


def round_trip(values: Tensor, scale: Tensor, zero_point: Tensor | int, bits: int, lowest: int = 0) -> Tensor:
    """What is left of the values after quantizing and dequantizing."""
    return dequantize(quantize(values, scale, zero_point, bits, lowest), scale, zero_point)


def weight_scale(
    matrix: Tensor,
    bits: int,
    granularity: str,
    group_size: int | None = None,
    *,
    symmetric: bool = True,
    search: str = "minmax",
) -> tuple[Tensor, Tensor]:
    """Scales and zero points for a weight matrix.

    Args:
        matrix: (rows, columns).
        bits: 2 to 8.
        granularity: "tensor", "channel" or "group".
        group_size: columns a group, for "group".
        symmetric: zero point in the middle.
        search: "minmax" covers every weight; "mse" narrows each range to where the squared error is smallest; "even"
            lets symmetric ranges reach equally far to both sides, so that the largest weights of the side with one
            level less lose half a step, and all steps are smaller for it: by a quarter of 2 bits, 7 % of 4.
    Returns:
        scale, zero_point: (1, 1), (rows, 1) or (rows, groups).
    """
    low, high = weight_ranges(matrix, granularity, group_size)
    if search == "even" and symmetric:
        scale = torch.maximum(-low, high).float() / ((highest_code(bits) - lowest_symmetric_code(bits)) / 2)
        scale = scale.clamp(min=SMALLEST_SCALE)
        return scale, torch.full_like(scale, middle_code(bits), dtype=torch.int32)
    if search in ("minmax", "even"):
        return range_to_scale(low, high, bits, symmetric=symmetric)
    return _least_error_scale(matrix, low, high, bits, granularity, group_size, symmetric=symmetric)


def _least_error_scale(
    matrix: Tensor, low: Tensor, high: Tensor, bits: int, granularity: str, group_size: int | None, *, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Shrink each range in 80 steps down to a fifth, keep the one with the least squared error."""
    size = group_size if granularity == "group" else None
    lowest = lowest_symmetric_code(bits) if symmetric else 0
    best_scale, best_zero = range_to_scale(low, high, bits, symmetric=symmetric)
    best_error = torch.full_like(best_scale, float("inf"))
    for shrink in torch.linspace(1.0, 0.2, 81).tolist():
        scale, zero_point = range_to_scale(low * shrink, high * shrink, bits, symmetric=symmetric)
        wide_scale, wide_zero = (expand_groups(part, matrix.shape[1], size) for part in (scale, zero_point))
        squared = (round_trip(matrix, wide_scale, wide_zero, bits, lowest) - matrix).square()
        error = squared.sum().reshape(1, 1) if granularity == "tensor" else _group_sums(squared, size)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        best_zero = torch.where(better, zero_point, best_zero)
    return best_scale, best_zero


def _group_sums(squared: Tensor, group_size: int | None) -> Tensor:
    rows, columns = squared.shape
    missing = -columns % (group_size or columns)
    return torch.nn.functional.pad(squared, (0, missing)).reshape(rows, -1, group_size or columns).sum(2)


#: weights that are looked at together, so that copies in wide types stay small
_LARGEST_PART = 1 << 20


@dataclass(frozen=True)
class Grid:
    """The levels that a weight matrix may take.

    Attributes:
        scale, zero_point: (1, 1), (rows, 1) or (rows, groups).
        bits: bits a code.
        lowest: the smallest code in use.
        group_size: columns that share a scale, or None.
    """

    scale: Tensor
    zero_point: Tensor
    bits: int
    lowest: int = 0
    group_size: int | None = None

    def wide(self, columns: int) -> tuple[Tensor, Tensor]:
        """Scale and zero point that broadcast against (rows, columns)."""
        scale, zero_point = (expand_groups(part, columns, self.group_size) for part in (self.scale, self.zero_point))
        return scale, zero_point

    def of_rows(self, rows: slice) -> Grid:
        """The grid of some rows."""
        if len(self.scale) == 1:
            return self
        return replace(self, scale=self.scale[rows], zero_point=self.zero_point[rows])

    def nearest(self, matrix: Tensor) -> Tensor:
        """Codes nearest to the weights, (rows, columns) float."""
        return quantize(matrix, *self.wide(matrix.shape[1]), self.bits, self.lowest)

    def values(self, codes: Tensor) -> Tensor:
        """Weights that the codes stand for."""
        return dequantize(codes, *self.wide(codes.shape[1]))


def make_grid(
    matrix: Tensor,
    bits: int,
    granularity: str,
    group_size: int | None,
    *,
    symmetric: bool,
    search: str,
    scale_type: str,
) -> Grid:
    """The grid for a weight matrix, its scales rounded to the number type in which they are stored."""
    size = group_size if granularity == "group" else None
    rows = max(len(matrix), 1) if granularity == "tensor" else max(_LARGEST_PART // max(matrix.shape[1], 1), 1)
    found = [
        weight_scale(part, bits, granularity, size, symmetric=symmetric, search=search) for part in matrix.split(rows)
    ]
    scale, zero_point = (torch.cat(parts) for parts in zip(*found, strict=True))
    stored = scale.to(getattr(torch, scale_type)).float().clamp(min=SMALLEST_SCALE)
    return Grid(stored, zero_point, bits, lowest_symmetric_code(bits) if symmetric else 0, size)


def sqnr_db(reference: Tensor, approximation: Tensor) -> float:
    """Signal to quantization noise ratio in decibels; infinite for an exact copy."""
    noise = signal = torch.zeros((), dtype=torch.float64, device=reference.device)
    pairs = zip(reference.reshape(-1).split(_LARGEST_PART), approximation.reshape(-1).split(_LARGEST_PART), strict=True)
    for one, other in pairs:
        noise = noise + (one.double() - other.double()).square().sum()
        signal = signal + one.double().square().sum()
    if noise == 0:
        return float("inf")
    return float(10 * torch.log10(signal.clamp(min=1e-300) / noise))
