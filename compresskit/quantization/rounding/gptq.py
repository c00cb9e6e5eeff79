"""GPTQ: rounding column by column, later columns making up for what earlier ones lost."""

from __future__ import annotations

import torch
from torch import Tensor

from ...analysis.calibration.moments import output_error
from ..formats import uniform
from .nearest import Problem, nearest

#: share of the mean diagonal that is added to the diagonal, as in the paper
_DAMPING = 0.01
#: columns whose corrections later ones take at once, and within these
_BLOCK, _PART = 128, 16


@torch.no_grad()
def gptq(problem: Problem) -> Tensor:
    """Round a weight matrix so that the layer's output error stays small.

    Columns are rounded in order of falling input energy. After column i, the columns left are moved by
    -(w_i - q_i) / U_ii * U_i,: where U is the upper Cholesky factor of the inverse of the damped moments.

    Args:
        problem: weights, grid and input moments.
    Returns:
        codes, (rows, columns).
    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
        ICLR 2023, section 3 and algorithm 1.
    """
    if problem.moments is None:
        return nearest(problem)
    moments = problem.moments.double()
    order = moments.diagonal(dim1=1, dim2=2).sum(0).argsort(descending=True, stable=True)
    factor = _inverse_factor(moments[:, order[:, None], order])
    return torch.cat([_rounded(part, moments, order, factor) for part in problem.by_rows()])


def _rounded(problem: Problem, moments: Tensor, order: Tensor, factor: Tensor) -> Tensor:
    """Codes of some rows of a weight matrix."""
    rows, columns = problem.matrix.shape
    groups, grid = moments.shape[0], problem.grid
    # (groups, columns, rows), so that a column of weights lies in one piece; a column that is done holds its codes
    weights = problem.matrix.double().reshape(groups, -1, columns)[:, :, order].mT.contiguous()
    scales, zeros = (
        part.double().expand(rows, part.shape[1]).reshape(groups, -1, part.shape[1]).mT.contiguous()
        for part in (grid.scale, grid.zero_point)
    )
    places = (order // grid.group_size).tolist() if grid.group_size and scales.shape[1] > 1 else [0] * columns
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = torch.empty_like(weights[:, start:stop])
        for first in range(start, stop, _PART):
            last = min(first + _PART, stop)
            for column in range(first, last):
                weight, step, zero = weights[:, column], scales[:, places[column]], zeros[:, places[column]]
                code = uniform.quantize(weight, step, zero, grid.bits, grid.lowest)
                lost = (weight - (code - zero) * step) / factor[:, column, column, None]
                weights[:, column], errors[:, column - start] = code, lost
                weights[:, column + 1 : last].baddbmm_(
                    factor[:, column, column + 1 : last, None], lost.unsqueeze(1), alpha=-1
                )
            _correct(weights[:, last:stop], factor[:, first:last, last:stop], errors[:, first - start : last - start])
        # the columns of later blocks take all of this block's corrections at once
        _correct(weights[:, stop:], factor[:, start:stop, stop:], errors)
    codes = weights.float()[:, order.argsort()].mT.reshape(rows, columns)
    del weights
    # being greedy, it can lose on a matrix of few columns
    plain = nearest(problem)
    lost, lost_at_first = (output_error(grid.values(c) - problem.matrix, moments) for c in (codes, plain))
    return codes if lost < lost_at_first else plain


def _correct(weights: Tensor, factor: Tensor, errors: Tensor) -> None:
    """Move columns that are left by what others lost, in place.

    Args:
        weights: (groups, columns left, rows).
        factor: (groups, others, columns left).
        errors: what the others lost, (groups, others, rows).
    """
    weights.baddbmm_(factor.mT, errors, alpha=-1)


def _inverse_factor(moments: Tensor) -> Tensor:
    """Upper Cholesky factors of the inverses of damped moments, (groups, columns, columns), in the moments' place."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    # an input that is always zero gets a unit of its own: its weight is rounded to nearest
    unused = diagonal == 0
    damping = _DAMPING * diagonal.mean(1, keepdim=True).clamp(min=1e-12)
    diagonal += damping + unused.double()
    torch.linalg.cholesky(moments, out=moments)
    torch.cholesky_inverse(moments, out=moments)
    return torch.linalg.cholesky(moments, upper=True, out=moments)
