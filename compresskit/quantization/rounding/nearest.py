"""Rounding weights to the nearest level, and what every rounding method is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..formats.uniform import Grid

#: weights of a part
_LARGEST_PART = 1 << 20


@dataclass(frozen=True)
class Problem:
    """One weight matrix to be rounded to a grid.

    Attributes:
        matrix: the float weights, (rows, columns).
        grid: the levels.
        moments: mean of x x^T over the layer's inputs x (im2col columns of a convolution),
            (weight groups, columns, columns) float64, or None where nothing was captured.
        seed: for methods that draw anything.
        kernel: columns that belong to one input channel, side by side.
    """

    matrix: Tensor
    grid: Grid
    moments: Tensor | None = None
    seed: int = 0
    kernel: int = 1

    def by_rows(self) -> Iterator[Problem]:
        """The same problem in parts of few enough rows that temporary copies in float64 stay small."""
        rows = max(_LARGEST_PART // self.matrix.shape[1], 1)
        if len(self.matrix) <= rows or (self.moments is not None and len(self.moments) > 1):
            yield self
            return
        for start in range(0, len(self.matrix), rows):
            part = slice(start, start + rows)
            yield replace(self, matrix=self.matrix[part], grid=self.grid.of_rows(part))


def nearest(problem: Problem) -> Tensor:
    """Codes nearest to the weights."""
    return torch.cat([part.grid.nearest(part.matrix) for part in problem.by_rows()])
