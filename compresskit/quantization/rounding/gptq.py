"""GPTQ: rounding column by column, later columns making up for what earlier ones lost."""

from __future__ import annotations

import torch
from torch import Tensor

from ...analysis.calibration.moments import output_error
from ..formats import uniform
from .nearest import Problem, nearest

#: share of the mean diagonal that is added to the diagonal, as in the paper
_DAMPING = 0.01
_BLOCK = 128


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
    groups = moments.shape[0]
    weights = problem.matrix.double().reshape(groups, -1, columns)[:, :, order].clone()
    scale, zero_point = (
        part.double().expand(rows, columns).reshape(groups, -1, columns)[:, :, order]
        for part in problem.grid.wide(columns)
    )
    codes = torch.empty_like(weights)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = torch.zeros_like(weights[:, :, start:stop])
        for column in range(start, stop):
            weight, step, zero = weights[:, :, column], scale[:, :, column], zero_point[:, :, column]
            codes[:, :, column] = uniform.quantize(weight, step, zero, problem.grid.bits, problem.grid.lowest)
            lost = (weight - (codes[:, :, column] - zero) * step) / factor[:, column, column, None]
            errors[:, :, column - start] = lost
            weights[:, :, column + 1 : stop] -= lost.unsqueeze(2) * factor[:, column, None, column + 1 : stop]
        # the columns of later blocks take all of this block's corrections at once
        weights[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    codes = codes[:, :, order.argsort()].reshape(rows, columns).float()
    # being greedy, it can lose on a matrix of few columns
    plain = nearest(problem)
    lost, lost_at_first = (output_error(problem.grid.values(c) - problem.matrix, moments) for c in (codes, plain))
    return codes if lost < lost_at_first else plain


def _inverse_factor(moments: Tensor) -> Tensor:
    """Upper Cholesky factors of the inverses of damped moments, (groups, columns, columns); the moments are changed."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    # an input that is always zero gets a unit of its own: its weight is rounded to nearest
    unused = diagonal == 0
    damping = _DAMPING * diagonal.mean(1, keepdim=True).clamp(min=1e-12)
    diagonal += damping + unused.double()
    return torch.linalg.cholesky(_inverse(moments), upper=True)


def _inverse(matrices: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(matrices))
