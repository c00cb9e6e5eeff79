"""AdaRound: every weight learns whether to round up or down."""

from __future__ import annotations

import torch
from torch import Tensor

from ...analysis.calibration.moments import output_error
from ..formats import uniform
from .nearest import Problem, nearest

#: the rectified sigmoid stretches (0, 1) to (GAMMA, ZETA) before it is clipped
ZETA, GAMMA = 1.1, -0.1
_STEPS = 500
_LEARNING_RATE = 0.1
_REGULARIZATION = 0.2
_WARMUP_SHARE = 0.2  # without regularization
_BETA_FIRST, _BETA_LAST = 20.0, 2.0


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(V) = clip(sigmoid(V) (ZETA - GAMMA) + GAMMA, 0, 1); eq. 23 of the paper."""
    return torch.clamp(torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0, 1)


def inverse_rectified_sigmoid(h: Tensor) -> Tensor:
    """V for which h(V) is the given share in (0, 1)."""
    return torch.logit((h - GAMMA) / (ZETA - GAMMA))


def regularization(h: Tensor, beta: float) -> Tensor:
    """Sum of 1 - |2h - 1|^beta: zero where every h is 0 or 1; eq. 24 of the paper."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def adaround(problem: Problem) -> Tensor:
    """Learn which weights to round up, by the layer's own output error.

    Minimizes trace((W - W') M (W - W')^T) + a * regularization over V, with W' = scale * (floor(W / scale) + h(V))
    clipped to the grid. The trace is the paper's squared output error, averaged over the data beforehand; it is
    scaled so that rounding to nearest costs every layer 1/12 a weight, and one `a` fits all layers.

    Args:
        problem: weights, grid and input moments.
    Returns:
        codes, (rows, columns).
    Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020, eq. 21 to 24.
    """
    if problem.moments is None:
        return nearest(problem)
    grid, matrix = problem.grid, problem.matrix.detach()
    scale, zero_point = grid.wide(matrix.shape[1])
    top = uniform.highest_code(grid.bits)
    floor = torch.floor(matrix / scale)
    moments = problem.moments.float()
    start = grid.nearest(matrix)
    # weights beyond the grid's ends have no choice to make
    reference_error = output_error(grid.values(start) - matrix, moments).clamp(min=1e-20)
    error_unit = matrix.numel() / 12 / reference_error
    share = (matrix / scale - floor).clamp(0.01, 0.99)
    v = inverse_rectified_sigmoid(share).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=_LEARNING_RATE)
    for step in range(_STEPS):
        progress = step / _STEPS
        h = rectified_sigmoid(v)
        soft = (torch.clamp(floor + h + zero_point, grid.lowest, top) - zero_point) * scale
        loss = output_error(soft - matrix, moments) * error_unit
        if progress >= _WARMUP_SHARE:
            cooled = (progress - _WARMUP_SHARE) / (1 - _WARMUP_SHARE)
            # beta falls along half a cosine: first only undecided weights feel it, then all
            beta = _BETA_LAST + (_BETA_FIRST - _BETA_LAST) * 0.5 * (
                1 + torch.cos(torch.tensor(cooled * torch.pi)).item()
            )
            loss = loss + _REGULARIZATION * regularization(h, beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        codes = torch.clamp(floor + (rectified_sigmoid(v) >= 0.5) + zero_point, grid.lowest, top)
        learned_error = output_error(grid.values(codes) - matrix, moments)
    return codes if learned_error < reference_error else start
