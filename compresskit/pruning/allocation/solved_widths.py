"""Widths by what narrower groups do to the model's output, under one budget, in the place of one share for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor, nn

from ...core.tensors.modules import tensor_of
from ..dependency.graph import Group
from .ranking_scope import local
from .units import Allocation, Limits

_DAMPING = 1e-6  # of the inputs' covariance, relative to its mean diagonal
_ROUNDS = 8  # in which costs of units and widths at one price follow each other
_BISECTIONS = 30


@torch.no_grad()
def losses_of_widths(
    layer: nn.Module, covariance: Tensor, rows: int, sensitivity: Tensor, ordered: np.ndarray
) -> np.ndarray:
    """What a layer's output loses when only the first units that it reads stay: half of sensitivity x squared error.

    A layer's other weights are refitted. Of the covariance with its columns in order, C = L L^T, the rows of L behind
    the columns that stay are the root of the Schur complement, which is what the others cannot tell: one factorization
    serves all widths. Fitted to few rows the error looks smaller than it is; it is raised by (rows + columns) /
    (rows - columns), and never above that of the weights as they are.

    Args:
        layer: the reader.
        covariance: of its input columns, (columns, columns).
        rows: that the covariance was taken from.
        sensitivity: Fisher information of each output, (out,), as `output_sensitivities` finds it.
        ordered: channels of each unit, the most important unit first, (units, channels).
    Returns:
        (units + 1,): entry k where k units stay.
    Source: Akaike, "Statistical predictor identification", 1970 (final prediction error), for the factor.
    """
    weight = tensor_of(layer).detach().double().flatten(1).T  # (columns, out)
    kernel = len(weight) // tensor_of(layer).shape[1]
    columns = [(own.reshape(-1, 1) * kernel + np.arange(kernel)).reshape(-1) for own in ordered]
    of_units = np.concatenate(columns)
    always = np.setdiff1d(np.arange(len(weight)), of_units)
    order = torch.from_numpy(np.concatenate([always, of_units]))
    inner, weight = covariance[order][:, order].double(), weight[order]
    damped = inner + _DAMPING * inner.diagonal().mean().clamp_min(1e-30) * torch.eye(len(inner)).to(inner)
    root = torch.linalg.cholesky_ex(damped)[0]
    fitted = (root.T @ weight).square() @ sensitivity.double()
    crossed = inner.triu(1) @ weight  # of each column with those behind it
    plain = (weight * (weight * inner.diagonal()[:, None] + 2 * crossed)) @ sensitivity.double()
    stays = len(always) + np.cumsum([0, *map(len, columns)])
    left = [np.append(one.numpy()[::-1].cumsum()[::-1], 0.0)[stays] for one in (fitted.cpu(), plain.cpu())]
    raised = np.where(stays < rows, left[0] * (rows + stays) / np.maximum(rows - stays, 1), np.inf)
    losses = 0.5 * np.minimum(raised, left[1]).clip(0.0)
    return np.maximum.accumulate(losses[::-1])[::-1]


class SolvedAllocation(Allocation):
    """Chooses how many units of each group stay by the least sum of what they lose.

    Args:
        groups: the groups.
        scores: group name -> (units,), higher stays.
        limits: group name -> Limits.
        losses: group name -> (units + 1,), entry k where k units stay; groups without are taken to lose as the others
            do on average.
    """

    def __init__(
        self,
        groups: list[Group],
        scores: Mapping[str, np.ndarray],
        limits: Mapping[str, Limits],
        losses: Mapping[str, Sequence[float] | np.ndarray],
    ):
        super().__init__(groups, scores, local(groups), limits)
        self._free = [number for pool in self.pools for number in pool]
        known = {group.name: np.asarray(losses[group.name]) for group in groups if group.name in losses}
        self._losses = [known[group.name] if group.name in known else _average(len(group), known) for group in groups]
        self._widths = {
            number: np.append(
                np.arange(self._least(number), len(groups[number]), self.limits[number].multiple), len(groups[number])
            )
            for number in self._free
        }

    def for_budget(self, cost: Callable[[np.ndarray], float], budget: float) -> np.ndarray:
        """Units of each group that stay so that a cost stays at or below a budget and comes close to it.

        Every unit of cost has one price, which is bisected: at a price each group takes the width of least loss plus
        price, what a unit costs following from the other groups' widths. Then steps that still fit are given back,
        those that win most for their cost first.

        Args:
            cost: kept counts -> cost, growing in every count.
            budget: largest cost allowed.
        Returns:
            kept counts; the smallest possible ones where even they exceed the budget.
        """
        whole, least = self.at_ratio(0.0), self.at_ratio(1.0, np.floor)
        if not self._free or cost(whole) <= budget:
            return whole
        best = least
        if cost(least) > budget:
            return least
        low, high = 0.0, max(self.lost(least), 1e-12) / max(cost(whole) - budget, 1e-12)
        for _ in range(_BISECTIONS):
            if cost(self._at_price(cost, high, whole)) <= budget:
                break
            low, high = high, 4 * high
        for _ in range(_BISECTIONS):
            price = (low * high) ** 0.5 if low else high / 4
            kept = self._at_price(cost, price, whole)
            fits = cost(kept) <= budget
            low, high = (low, price) if fits else (price, high)
            if fits and self.lost(kept) < self.lost(best):
                best = kept
        return self._give_back(best, cost, budget)

    def halfway(
        self, kept: np.ndarray, other: np.ndarray, cost: Callable[[np.ndarray], float], budget: float
    ) -> np.ndarray:
        """Widths halfway between two choices, brought under the budget by the steps that lose least for their cost.

        Losses are estimates, and the mean of two guesses scatters less than either. Between two steps it begins with
        the wider one: what is given back from below goes where losses alone say, which is back to the first choice.

        Args:
            kept: counts of one choice.
            other: of the other.
            cost: as `for_budget` takes it.
            budget: largest cost allowed.
        Returns:
            kept counts.
        """
        middle = kept.copy()
        for number in self._free:
            widths = self._widths[number]
            middle[number] = widths[widths >= (kept[number] + other[number]) / 2][0]
        while (now := cost(middle)) > budget:
            steps = []
            for number in self._free:
                narrower = self._widths[number][self._widths[number] < middle[number]][-1:]
                if not len(narrower):
                    continue
                trial = middle.copy()
                trial[number] = narrower[0]
                lost = self._losses[number][narrower[0]] - self._losses[number][middle[number]]
                steps.append((lost / max(now - cost(trial), 1e-12), number, trial))
            if not steps:
                break
            middle = min(steps, key=lambda one: one[:2])[2]
        return self._give_back(middle, cost, budget)

    def restricted(
        self, kept: np.ndarray, takes: Callable[[np.ndarray], bool]
    ) -> Iterator[tuple[str, SolvedAllocation]]:
        """For each group its name, and the same with those of its widths alone that are taken beside `kept`."""
        for number in self._free:
            trials = np.tile(kept, (len(self._widths[number]), 1))
            trials[:, number] = self._widths[number]
            widths = self._widths[number][[takes(trial) for trial in trials]]
            if len(widths):
                other = copy(self)
                other._widths = self._widths | {number: widths}
                yield self.groups[number].name, other

    def lost(self, kept: np.ndarray) -> float:
        """What these counts lose."""
        return sum(float(self._losses[number][kept[number]]) for number in self._free)

    def _at_price(self, cost: Callable[[np.ndarray], float], price: float, start: np.ndarray) -> np.ndarray:
        kept = start.copy()
        for _ in range(_ROUNDS):
            now, chosen = cost(kept), kept.copy()
            for number in self._free:
                fewer = kept.copy()
                fewer[number] -= 1
                widths = self._widths[number]
                sums = self._losses[number][widths] + price * (now - cost(fewer)) * widths
                chosen[number] = widths[len(sums) - 1 - int(np.argmin(sums[::-1]))]
            if (chosen == kept).all():
                break
            kept = chosen
        return kept

    def _give_back(self, kept: np.ndarray, cost: Callable[[np.ndarray], float], budget: float) -> np.ndarray:
        while True:
            now, found = cost(kept), []
            for number in self._free:
                wider = self._widths[number][self._widths[number] > kept[number]][:1]
                if not len(wider):
                    continue
                trial = kept.copy()
                trial[number] = wider[0]
                if (dearer := cost(trial)) <= budget:
                    won = self._losses[number][kept[number]] - self._losses[number][wider[0]]
                    found.append((won / max(dearer - now, 1e-12), -number, trial))
            if not found:
                return kept
            kept = max(found, key=lambda one: one[:2])[2]


def _average(units: int, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """The mean of the known groups' losses at the same shares of their units; where none is known, the share lost."""
    shares = np.linspace(0, 1, units + 1)
    if not known:
        return 1 - shares
    return np.mean([np.interp(shares, np.linspace(0, 1, len(one)), one) for one in known.values()], axis=0)
