"""Rounding weights to the nearest level, and what every rounding method is given."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..formats.uniform import Grid


@dataclass(frozen=True)
class Problem:
    """One weight matrix to be rounded to a grid.

    Attributes:
        matrix: the float weights, (rows, columns).
        grid: the levels.
        moments: mean of x x^T over the layer's inputs x (im2col columns of a convolution),
            (weight groups, columns, columns) float64, or None where nothing was captured.
        seed: for methods that draw anything.
    """

    matrix: Tensor
    grid: Grid
    moments: Tensor | None = None
    seed: int = 0


def nearest(problem: Problem) -> Tensor:
    """Codes nearest to the weights."""
    return problem.grid.nearest(problem.matrix)
