"""SQuant: rounding without data, so that the errors of each kernel and each channel cancel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..formats import uniform
from .nearest import Problem


@torch.no_grad()
def squant(problem: Problem) -> Tensor:
    """Round to nearest, then move a few codes by one so that rounding errors add up to little.

    Inputs behind a ReLU have a mean, so that errors of one sign add up in the output. With errors in steps, those of a
    kernel add up to half a step at most once the largest of the sign of their sum are rounded the other way; then one
    more weight of each of the few kernels with the largest sums goes, until those of the whole channel (weights that
    share a scale) do the same. No error is larger than a step, or than it was where the grid ends.

    Args:
        problem: weights, grid, and how many columns a kernel has; moments are not read.
    Returns:
        codes, (rows, columns).
    Source: Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", ICLR 2022,
        eq. 8 to 12 and algorithms 1 to 3.
    """
    return torch.cat([_rounded(part) for part in problem.by_rows()])


def _rounded(problem: Problem) -> Tensor:
    grid, (rows, columns) = problem.grid, problem.matrix.shape
    scale, zero_point = grid.wide(columns)
    codes = uniform.quantize(problem.matrix, scale, zero_point, grid.bits, grid.lowest)
    shared = _sharing_a_scale(grid, columns)
    kernel = problem.kernel if shared % problem.kernel == 0 else 1

    def split(values: Tensor, filling: float) -> Tensor:
        """(rows, columns) -> (channels, kernels, columns of a kernel)"""
        return F.pad(values, (0, -columns % shared), value=filling).reshape(-1, shared // kernel, kernel)

    errors = split(codes - zero_point - problem.matrix / scale, 0.0)
    lowest, highest = split(codes - grid.lowest, 0.0), split(uniform.highest_code(grid.bits) - codes, 0.0)
    # an error above zero falls when its code does
    movable = torch.where(errors > 0, lowest, highest) > 0
    change = torch.zeros_like(errors)

    sums = errors.sum(2, keepdim=True)
    against = movable & (errors * sums > 0)
    moves = against & _among_largest(errors.abs(), against, sums.abs().round())
    change -= moves * sums.sign()

    moved = errors + change
    kernel_sums = moved.sum(2)
    total = kernel_sums.sum(1, keepdim=True)
    sign = total.sign().unsqueeze(2)
    # a weight that was moved may go back
    against = (moved * sign > 0) & (movable | (change != 0))
    able = against.any(2) & (kernel_sums * total > 0)
    kernels = able & _among_largest(kernel_sums.abs(), able, total.abs().round())
    first = torch.where(against, moved.abs(), -1.0).argmax(2, keepdim=True)
    change -= torch.zeros_like(change).scatter_(2, first, 1.0) * kernels.unsqueeze(2) * sign
    return codes + change.reshape(rows, -1)[:, :columns]


def _among_largest(sizes: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    """Which sizes are among the `counts` largest of the candidates along the last dimension."""
    order = torch.where(candidates, sizes, -1.0).argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1) < counts


def _sharing_a_scale(grid: uniform.Grid, columns: int) -> int:
    """How many columns of a row share a scale."""
    return grid.group_size if grid.group_size and grid.scale.shape[1] > 1 else max(columns, 1)
