"""How much more or less than predicted each place's loss counts, learned from scored candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: spread that the logarithm of a place's coefficient is expected to have, and that of the common factor
_PRIOR, _COMMON_PRIOR = 0.7, 3.0
#: spread of the logarithm of a divergence around the model: few examples, and what a sum of losses cannot say
_NOISE = 0.2
_STEPS = 8


class Coefficients:
    """Posterior of the coefficients c in: divergence = exp(c0) * sum over places of exp(c[place]) * loss[place][level].

    The logarithms are Gaussian beforehand; the posterior is Laplace's approximation around its mode.

    Args:
        losses: predicted, of every level of every place.
    """

    def __init__(self, losses: Sequence[Sequence[float]]):
        self._losses = losses
        self._rows: list[np.ndarray] = []  # each place's predicted loss, of every scored candidate
        self._logs: list[float] = []
        size = len(losses) + 1
        self._precision = np.diag([1 / _PRIOR**2] * len(losses) + [1 / _COMMON_PRIOR**2])
        self._mode = np.zeros(size)

    def observe(self, choice: Sequence[int], divergence: float) -> None:
        """Take in a scored candidate; one without a predicted or a measured loss says nothing."""
        row = np.array([own[level] for own, level in zip(self._losses, choice, strict=True)])
        if divergence > 0 and row.sum() > 0:
            self._rows.append(row)
            self._logs.append(float(np.log(divergence)))

    def fit(self) -> np.ndarray:
        """The mode, (places + 1,); the last is the common factor's logarithm. By damped Gauss-Newton steps."""
        for _ in range(_STEPS if self._rows else 0):
            jacobian, residual = self._linearized(self._mode)
            hessian = self._precision + jacobian.T @ jacobian / _NOISE**2
            step = np.linalg.solve(hessian, jacobian.T @ residual / _NOISE**2 - self._precision @ self._mode)
            self._mode = self._mode + step * min(1.0, 1.0 / max(np.abs(step[:-1]).max(initial=0.0), 1e-12))
        return self._mode

    def drawn(self, generator: np.random.Generator, spread: float) -> np.ndarray:
        """Coefficients of the places drawn from the posterior, (places,); spread 0 gives the mode."""
        mode = self.fit()
        hessian = self._precision
        if self._rows:
            jacobian, _ = self._linearized(mode)
            hessian = hessian + jacobian.T @ jacobian / _NOISE**2
        root = np.linalg.cholesky(np.linalg.inv(hessian))
        return (mode + spread * root @ generator.standard_normal(len(mode)))[:-1]

    def _linearized(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(candidates, places + 1) derivatives of the predicted logarithm, and (candidates,) what it misses."""
        parts = np.stack(self._rows) * np.exp(at[:-1])
        sums = parts.sum(1)
        jacobian = np.concatenate([parts / sums[:, None], np.ones((len(sums), 1))], 1)
        return jacobian, np.array(self._logs) - np.log(sums) - at[-1]
