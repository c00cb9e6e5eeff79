"""Ridge regression from sums over samples, with its strength chosen on samples that were left out.

Source: Stone, "Cross-validatory choice and assessment of statistical predictions", 1974; the pull is towards a given
map instead of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...analysis.calibration.moments import RegressionSums

#: strengths that are tried, relative to the mean diagonal of the inputs' second moments; at the last one the map hardly
#: moves
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class NormalEquations:
    """Sums over samples of inputs x and outputs y.

    Attributes:
        gram: sum of x x^T, (columns, columns).
        cross: sum of x y^T, (columns, outputs).
        inputs: sum of x, (columns,).
        outputs: sum of y, (outputs,).
        energy: sum of squares of y.
        count: samples.
    """

    gram: Tensor
    cross: Tensor
    inputs: Tensor
    outputs: Tensor
    energy: float
    count: int

    @classmethod
    def of(cls, sums: RegressionSums) -> NormalEquations:
        """The sums that were collected batch by batch."""
        inputs = sums.inputs
        return cls(inputs.second[0], sums.cross, inputs.first[0], sums.outputs, sums.energy, inputs.count)

    def plus(self, other: NormalEquations, sign: int = 1) -> NormalEquations:
        """Sums over both sets of samples; with sign -1, over those of the first that are not in the second."""
        return NormalEquations(
            self.gram + sign * other.gram, self.cross + sign * other.cross, self.inputs + sign * other.inputs,
            self.outputs + sign * other.outputs, self.energy + sign * other.energy, self.count + sign * other.count,
        )  # fmt: skip

    def shifted(self, x: Tensor | None, y: Tensor | None) -> NormalEquations:
        """The sums that (inputs - x, outputs - y) would have given; None for zero."""
        x = torch.zeros_like(self.inputs) if x is None else x
        y = torch.zeros_like(self.outputs) if y is None else y
        lacking = self.count * x - self.inputs  # (n x - sum x) x^T - x (sum x)^T is the change of the gram
        return NormalEquations(
            self.gram + torch.outer(lacking, x) - torch.outer(x, self.inputs),
            self.cross + torch.outer(lacking, y) - torch.outer(x, self.outputs),
            self.inputs - self.count * x,
            self.outputs - self.count * y,
            self.energy - 2 * float(self.outputs @ y) + self.count * float(y.square().sum()),
            self.count,
        )

    def left(self, weight: Tensor) -> float:
        """Squared error of a map (columns, outputs), summed over samples and outputs."""
        error = self.energy + float((weight * (self.gram @ weight - 2 * self.cross)).sum())
        return max(error, 0.0)

    def solve(self, start: Tensor, strength: float) -> Tensor:
        """The map of least squared error, pulled towards a start, (columns, outputs)."""
        system = self.gram.clone()
        system.diagonal().add_(strength * float(self.gram.diagonal().mean()) + 1e-12)
        factor, failed = torch.linalg.cholesky_ex(system)
        right = self.cross - self.gram @ start
        change = torch.linalg.solve(system, right) if failed else torch.cholesky_solve(right, factor)
        return start + change


def chosen_strength(folds: Sequence[NormalEquations], start: Tensor, *, intercept: bool) -> float:
    """The strength whose maps, fitted to all folds but one, err least on that one.

    Neighbours of the best so far are tried, from the middle of `STRENGTHS` on, until none is better.

    Args:
        folds: at least two, of samples that do not come from the same examples.
        start: (columns, outputs), what the map is pulled towards.
        intercept: whether a constant is fitted too.
    """
    whole = total(folds)
    splits = []
    for fold in folds:
        seen = whole.plus(fold, -1)
        x, y = (seen.inputs / seen.count, seen.outputs / seen.count) if intercept else (None, None)
        splits.append((seen.shifted(x, y), fold.shifted(x, y)))
    errors: dict[int, float] = {}

    def error(index: int) -> float:
        if index not in errors:
            maps = ((seen.solve(start, STRENGTHS[index]), unseen) for seen, unseen in splits)
            errors[index] = sum(unseen.left(weight) for weight, unseen in maps)
        return errors[index]

    best = len(STRENGTHS) // 2
    while True:
        near = [index for index in (best - 1, best + 1) if 0 <= index < len(STRENGTHS)]
        better = min(near, key=error)
        if error(better) >= error(best):
            return STRENGTHS[best]
        best = better


def total(folds: Sequence[NormalEquations]) -> NormalEquations:
    """Sums over all folds."""
    whole = folds[0]
    for fold in folds[1:]:
        whole = whole.plus(fold)
    return whole
