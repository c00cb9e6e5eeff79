"""Which inputs a layer can best do without, when what remains is refitted.

Removing the columns u of a layer's input raises the least-squares error of its output by
tr(W_u^T (H_uu)^-1 W_u), H = (X^T X)^-1, and the best weights for the rest follow in closed form. Units are removed
greedily,
cheapest first, with H and W brought up to date after every step.

Source: Hassibi & Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", NeurIPS 1992, eq. 5,
for blocks of weights and the layer-wise squared error; He, Zhang & Sun, "Channel Pruning for Accelerating Very Deep
Neural
Networks", ICCV 2017, minimize the same error over channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: a group is emptied in about this many steps; larger groups lose several units a step
STEPS = 96


class Reader:
    """A layer that reads the units.

    Args:
        covariance: of its input columns, (columns, columns).
        weight: (out, columns).
        columns: columns of each unit, (units, columns a unit).
        damping: added to the diagonal, relative to its mean.
        output_scale: weight of each output's squared error, (out,); by default all are relative to the output's energy.
    """

    def __init__(
        self,
        covariance: Tensor,
        weight: Tensor,
        columns: Tensor,
        damping: float = 1e-3,
        output_scale: Tensor | None = None,
    ):
        self.columns = columns
        n = covariance.shape[0]
        scale = covariance.diagonal().mean().clamp_min(1e-12)
        self.inverse = torch.linalg.inv(covariance + damping * scale * torch.eye(n).to(covariance))
        self.weight = weight.to(covariance.dtype).T.clone()  # (columns, out)
        if output_scale is not None:
            self.weight *= (output_scale / 2).sqrt().to(covariance)
            self.energy = 1.0
            return
        self.energy = float(((covariance @ self.weight) * self.weight).sum().clamp_min(1e-12))

    def errors(self, units: Tensor) -> Tensor:
        """Rise of the relative squared output error when one of the units goes, (units,)."""
        picked = self.columns[units]
        blocks = self.inverse[picked.unsqueeze(2), picked.unsqueeze(1)]
        weights = self.weight[picked]  # (units, columns a unit, out)
        return (torch.linalg.solve(blocks, weights) * weights).sum((1, 2)).double().cpu() / self.energy

    def remove(self, units: Tensor) -> None:
        """Take units away and refit the rest."""
        gone = self.columns[units].reshape(-1)
        block = self.inverse[:, gone]
        inner = torch.linalg.inv(block[gone])
        self.weight -= block @ (inner @ self.weight[gone])
        self.inverse -= block @ (inner @ block.T)
        # the removed rows are zero up to rounding; an exact one keeps later solves regular
        self.inverse[gone] = 0
        self.inverse[:, gone] = 0
        self.inverse[gone, gone] = 1
        self.weight[gone] = 0


def eliminate(readers: Sequence[Reader], units: int) -> Tensor:
    """Scores from greedy elimination: the error that each unit's removal adds, never falling along the way.

    Args:
        readers: every layer that reads the units.
        units: how many there are.
    Returns:
        (units,) float64; the order of removal is the order of the scores.
    """
    scores = torch.zeros(units, dtype=torch.float64)
    left = torch.arange(units)
    step = max(1, units // STEPS)
    highest = 0.0
    while len(left):
        errors = sum((reader.errors(left) for reader in readers[1:]), readers[0].errors(left))
        order = errors.argsort()[:step]
        for place in order.tolist():
            # a rising trace keeps the removal order when scores are sorted
            highest = max(highest * (1 + 1e-9), float(errors[place]))
            scores[left[place]] = highest
        gone = left[order]
        if len(gone) < len(left):
            for reader in readers:
                reader.remove(gone)
        left = left[~torch.isin(left, gone)]
    return scores
