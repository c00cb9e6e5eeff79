"""How many units of each group stay, and which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..dependency.graph import Group


@dataclass(frozen=True)
class Limits:
    """What a group may lose.

    Attributes:
        multiple: kept counts are multiples of this (where the group is cut at all).
        least: fewest units that stay.
        fixed: share that goes, set by the user for this group; None lets the budget decide.
        whole: the group is protected.
    """

    multiple: int = 1
    least: int = 1
    fixed: float | None = None
    whole: bool = False


def multiple_for(units: int, width: int, round_to: int) -> int:
    """Units to round to so that channels stay multiples of `round_to`; narrower layers take a smaller power of two.

    Args:
        units: units of the group.
        width: channels of the group (a head is one unit of many channels).
        round_to: wanted multiple of channels.
    """
    multiple = max(1, round_to // max(1, width // units))
    while multiple > 1 and multiple > units // 8:
        multiple //= 2
    return max(1, multiple)


def by_score(scores: np.ndarray) -> np.ndarray:
    """Units in the order of their scores, the highest first; equal ones keep their order."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")


def highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Mask of so many units, those of the highest scores."""
    mask = np.zeros(len(scores), dtype=bool)
    mask[by_score(scores)[:count]] = True
    return mask


class Allocation:
    """Chooses what stays from scores, pools and limits.

    Args:
        groups: the groups.
        scores: group name -> (units,), higher stays.
        pools: indices of groups that compete with each other.
        limits: group name -> Limits.
    """

    def __init__(
        self,
        groups: list[Group],
        scores: Mapping[str, np.ndarray],
        pools: list[list[int]],
        limits: Mapping[str, Limits],
    ):
        self.groups = groups
        self.scores = [np.asarray(scores[group.name], dtype=np.float64) for group in groups]
        self.limits = [limits[group.name] for group in groups]
        self.pools = [[n for n in pool if not self.limits[n].whole and self.limits[n].fixed is None] for pool in pools]
        self._pooled = [np.sort(np.concatenate([self.scores[n] for n in pool])) for pool in self.pools if pool]
        self.pools = [pool for pool in self.pools if pool]

    def at_ratio(self, ratio: float, rounding: Callable[[float], float] = np.ceil) -> np.ndarray:
        """Units of each group that stay when every pool loses a share of its units."""
        kept = np.array([len(group) for group in self.groups], dtype=np.int64)
        for number, limit in enumerate(self.limits):
            if limit.fixed and not limit.whole:
                kept[number] = self._bounded(number, len(self.groups[number]) * (1 - limit.fixed), rounding)
        for pool, ranked in zip(self.pools, self._pooled, strict=True):
            if len(pool) == 1:
                number = pool[0]
                kept[number] = self._bounded(number, len(self.groups[number]) * (1 - ratio), rounding)
                continue
            lost = int(len(ranked) * ratio)
            threshold = ranked[lost] if lost < len(ranked) else np.inf
            for number in pool:
                kept[number] = self._bounded(number, int((self.scores[number] >= threshold).sum()), rounding)
        return kept

    def _bounded(self, number: int, wanted: float, rounding: Callable[[float], float]) -> int:
        units, limit = len(self.groups[number]), self.limits[number]
        # rounding first removes what floating point adds to a whole number of steps
        steps = int(rounding(round(wanted / limit.multiple, 9)))
        return int(min(units, max(steps * limit.multiple, self._least(number))))

    def _least(self, number: int) -> int:
        units, limit = len(self.groups[number]), self.limits[number]
        return min(units, -(-limit.least // limit.multiple) * limit.multiple)

    def for_budget(self, cost: Callable[[np.ndarray], float], budget: float) -> np.ndarray:
        """Units of each group that stay so that a cost stays at or below a budget and comes close to it.

        The common ratio is bisected; then steps that still fit are given back, most important first.

        Args:
            cost: kept counts -> cost, growing in every count.
            budget: largest cost allowed.
        Returns:
            kept counts; the smallest possible ones where even they exceed the budget.
        """
        low, high = 0.0, 1.0
        if cost(self.at_ratio(0.0)) <= budget:
            return self.at_ratio(0.0)
        for _ in range(40):
            middle = (low + high) / 2
            if cost(self.at_ratio(middle, np.floor)) > budget:
                low = middle
            else:
                high = middle
        return self._give_back(self.at_ratio(high, np.floor), cost, budget)

    def _give_back(self, kept: np.ndarray, cost: Callable[[np.ndarray], float], budget: float) -> np.ndarray:
        free = {number for pool in self.pools for number in pool}
        sorted_scores = [np.sort(scores)[::-1] for scores in self.scores]
        while free:
            order = sorted(free, key=lambda n: (-self._next(n, kept, sorted_scores), n))
            for number in order:
                units, limit = len(self.groups[number]), self.limits[number]
                trial = kept.copy()
                trial[number] = min(units, kept[number] + limit.multiple)
                if trial[number] == kept[number] or cost(trial) > budget:
                    free.discard(number)
                    continue
                kept = trial
                break
        return kept

    def _next(self, number: int, kept: np.ndarray, ranked: list[np.ndarray]) -> float:
        """Score of the next unit to come back, relative to how much of the group is left."""
        if kept[number] >= len(ranked[number]):
            return -np.inf
        return float(ranked[number][kept[number]]) * (1 - kept[number] / len(ranked[number]))

    def choose(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Which units of each group stay, (units,) bool: those with the highest scores; groups left whole are
        absent."""
        chosen = {}
        for number, group in enumerate(self.groups):
            if kept[number] < len(group):
                chosen[group.name] = highest(self.scores[number], kept[number])
        return chosen
