"""How many singular values stand out of the noise: empirical variational Bayes, in closed form."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor


def evbmf_rank(matrix: Tensor) -> int:
    """The rank that empirical variational Bayesian matrix factorization gives a fully observed matrix.

    The noise variance is found by minimizing the free energy, one number; no setting is needed.

    Args:
        matrix: (rows, columns).
    Returns:
        0 up to the smaller side.
    Source: Nakajima, Sugiyama, Babacan & Tomioka, "Global analytic solution of fully-observed variational Bayesian
        matrix factorization", JMLR 14, 2013, theorems 2, 9 and corollary 4.
    """
    short, long = sorted(matrix.shape)
    singular = torch.linalg.svdvals(matrix.double())
    if short < 2 or singular[0] == 0:
        return int(short > 0 and singular[0] > 0)
    alpha = short / long
    bound = threshold(alpha)
    variance = _noise_variance(singular.square(), short, long, bound)
    return int((singular.square() > long * variance * bound).sum())


def threshold(alpha: float) -> float:
    """Above which value of s^2 / (long side * noise variance) a singular value s is kept, for a ratio of sides <= 1."""
    tau = _tau_threshold(alpha)
    return (1 + tau) * (1 + alpha / tau)


def _tau_threshold(alpha: float) -> float:
    """The zero of phi(tau) + phi(tau / alpha), phi(z) = log(z + 1) / z - 1/2, which decreases in tau."""

    def phi(z: float) -> float:
        return log(z + 1) / z - 0.5

    low, high = 1e-12, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if phi(middle) + phi(middle / alpha) > 0 else (low, middle)
    return (low + high) / 2


def free_energy(squares: Tensor, variance: Tensor, short: int, long: int, bound: float) -> Tensor:
    """The free energy, up to a constant and scale, at each of some noise variances.

    Args:
        squares: squared singular values, (short,).
        variance: noise variances, (candidates,).
    Returns:
        (candidates,).
    """
    alpha = short / long
    x = squares[None, :] / (long * variance[:, None])
    energy = x - x.clamp_min(1e-300).log()
    inner = x - (1 + alpha)
    tau = (inner + (inner.square() - 4 * alpha).clamp_min(0).sqrt()) / 2
    kept = (tau + 1).clamp_min(1e-300).log() + alpha * (tau / alpha + 1).clamp_min(1e-300).log() - tau
    return (energy + torch.where(x > bound, kept, torch.zeros_like(kept))).sum(1)


def _noise_variance(squares: Tensor, short: int, long: int, bound: float) -> float:
    alpha = short / long
    most = min(int(-(-short // (1 + alpha))) - 1, short - 1)  # no more components than this can be kept
    highest = squares.sum() / (short * long)
    lowest = torch.maximum(squares[most] / (long * bound), squares[most:].mean() / long)
    lowest = lowest.clamp_min(highest * 1e-12)
    low, high = lowest.log(), highest.log()
    for _ in range(4):  # each pass narrows the bracket around the best of a grid
        grid = torch.linspace(low.item(), high.item(), 400, dtype=torch.float64)
        best = int(free_energy(squares, grid.exp(), short, long, bound).argmin())
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(((low + high) / 2).exp())
