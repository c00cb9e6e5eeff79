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
#: rows on which the error of nearest is looked at first, and the share of it below which no others are needed
_SAMPLED_ROWS, _CLEARLY_LESS = 64, 0.9


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
    damping = _damping(moments)
    factor = _inverse_factor(moments[:, order[:, None], order], damping[:, order])
    found = []
    for part in problem.by_rows():
        codes, errors = _rounded(part, order, factor)
        delta = (part.grid.values(codes) - part.matrix).reshape(len(moments), -1, len(order))
        errors -= (delta.double().square() * damping[:, None]).sum(2)  # what damping adds
        # being greedy, it can lose on a matrix of few columns
        found.append(codes if _is_better(errors, part, moments) else nearest(part))
    return torch.cat(found)


def _is_better(errors: Tensor, problem: Problem, moments: Tensor) -> bool:
    """Whether rows whose output errors are given, (groups, rows), lose less than the nearest codes.

    A few rows tell it mostly, and the error of all would take longer than rounding.
    """
    delta = problem.grid.values(nearest(problem)) - problem.matrix
    if len(moments) == 1 and len(delta) > 2 * _SAMPLED_ROWS:
        rows = torch.linspace(0, len(delta) - 1, _SAMPLED_ROWS).long()
        if errors[0, rows].sum() < _CLEARLY_LESS * output_error(delta[rows], moments):
            return True
    return bool(errors.sum() < output_error(delta, moments))


def _rounded(problem: Problem, order: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of some rows of a weight matrix, and the output error of each row under the damped moments.

    With the upper factor U of the inverse of H, what all columns lost is D = e U for the errors e of the loop, and so
    D H D^T = e e^T: the error costs nothing.
    """
    rows, columns = problem.matrix.shape
    groups, grid = factor.shape[0], problem.grid
    # (groups, columns, rows), so that a column of weights lies in one piece; a column that is done holds its codes
    weights = problem.matrix.double().reshape(groups, -1, columns)[:, :, order].mT.contiguous()
    scales, zeros = (
        part.double().expand(rows, part.shape[1]).reshape(groups, -1, part.shape[1]).mT.contiguous()
        for part in (grid.scale, grid.zero_point)
    )
    places = (order // grid.group_size).tolist() if grid.group_size and scales.shape[1] > 1 else [0] * columns
    squares = weights.new_zeros(groups, weights.shape[2])
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
        squares += errors.square().sum(1)
    return weights.float()[:, order.argsort()].mT.reshape(rows, columns), squares


def _correct(weights: Tensor, factor: Tensor, errors: Tensor) -> None:
    """Move columns that are left by what others lost, in place.

    Args:
        weights: (groups, columns left, rows).
        factor: (groups, others, columns left).
        errors: what the others lost, (groups, others, rows).
    """
    weights.baddbmm_(factor.mT, errors, alpha=-1)


def _damping(moments: Tensor) -> Tensor:
    """What is added to the diagonals of moments, (groups, columns), so that they have inverses."""
    diagonal = moments.diagonal(dim1=1, dim2=2)
    # an input that is always zero gets a unit of its own: its weight is rounded to nearest
    return _DAMPING * diagonal.mean(1, keepdim=True).clamp(min=1e-12) + (diagonal == 0).double()


def _inverse_factor(moments: Tensor, damping: Tensor) -> Tensor:
    """Upper Cholesky factors of the inverses of damped moments, (groups, columns, columns), in the moments' place."""
    moments.diagonal(dim1=1, dim2=2).add_(damping)
    torch.linalg.cholesky(moments, out=moments)
    torch.cholesky_inverse(moments, out=moments)
    return torch.linalg.cholesky(moments, upper=True, out=moments)
