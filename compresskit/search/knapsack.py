"""The budget allocated exactly: least total loss over all places within one cost that need not be additive.

Costs of neighbouring places multiply (a convolution costs inputs times outputs). Places are split into *hubs* and the
rest, so that no two of the rest share a cost term: with the hubs' levels fixed, the cost is a sum over the rest, and
dynamic programming solves it. Hubs are enumerated where that is affordable, and improved one at a time otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

#: combinations of hub levels that are tried one by one
_ENUMERATED = 256
_BINS = 1000

Choice = tuple[int, ...]

#: where hub levels start from: whole, half, cheapest
_TOP, _MIDDLE, _BOTTOM = (lambda size: size - 1), (lambda size: size // 2), (lambda size: 0)


class Allocator:
    """Solves one cost function for any losses and budget.

    Args:
        sizes: number of levels of each place.
        cost: choice -> cost, growing in every level.
    """

    def __init__(self, sizes: Sequence[int], cost: Callable[[Choice], float]):
        self.sizes = list(sizes)
        self.cost = cost
        self.hubs, self.rest = split(self.sizes, cost)
        self._tables: dict[Choice, tuple[float, list[list[float]]]] = {}

    def solve(
        self, losses: Sequence[Sequence[float]], budget: float, start: Sequence[int] | None = None
    ) -> Choice | None:
        """Least sum of losses with cost(choice) <= budget.

        Args:
            losses: of every level of every place.
            budget: largest cost.
            start: a choice whose hub levels to improve from, where they are too many to enumerate.
        Returns:
            the choice, or None if nothing fits.
        """
        count = np.prod([self.sizes[hub] for hub in self.hubs], dtype=np.float64)
        if count <= _ENUMERATED:
            combinations = itertools.product(*(range(self.sizes[hub]) for hub in self.hubs))
            return _best((self.inner(losses, budget, levels) for levels in combinations), losses)
        if start is not None:
            starts = [tuple(start[hub] for hub in self.hubs)]
        else:
            starts = [tuple(pick(self.sizes[hub]) for hub in self.hubs) for pick in (_TOP, _MIDDLE, _BOTTOM)]
        return _best((self._improved(losses, budget, one) for one in starts), losses)

    def _improved(self, losses: Sequence[Sequence[float]], budget: float, levels: Choice) -> Choice | None:
        """Hub levels changed one at a time, each to its best, until nothing gets better."""
        best = self.inner(losses, budget, levels)
        for _ in range(4):
            before = best
            for position, hub in enumerate(self.hubs):
                trials = [(*levels[:position], level, *levels[position + 1 :]) for level in range(self.sizes[hub])]
                best = _best([best, *(self.inner(losses, budget, trial) for trial in trials)], losses)
                if best is not None:
                    levels = tuple(best[h] for h in self.hubs)
            if best == before:
                break
        return best

    def inner(self, losses: Sequence[Sequence[float]], budget: float, levels: Choice) -> Choice | None:
        """The best levels of the rest, the hubs' levels given; None if nothing fits."""
        floor, extras = self._extras(levels)
        if floor > budget * (1 + 1e-12):
            return None
        picked = knapsack(extras, [losses[place] for place in self.rest], max(budget - floor, 0.0))
        if picked is None:
            return None
        found = [0] * len(self.sizes)
        for place, level in [*zip(self.hubs, levels, strict=True), *zip(self.rest, picked, strict=True)]:
            found[place] = level
        return tuple(found)

    def _extras(self, levels: Choice) -> tuple[float, list[list[float]]]:
        """Cost with the rest at their lowest levels, and what each level of each of the rest adds."""
        if levels not in self._tables:
            base = [0] * len(self.sizes)
            for hub, level in zip(self.hubs, levels, strict=True):
                base[hub] = level
            floor = self.cost(tuple(base))
            self._tables[levels] = (
                floor,
                [
                    [
                        self.cost((*base[:place], level, *base[place + 1 :])) - floor
                        for level in range(self.sizes[place])
                    ]
                    for place in self.rest
                ],
            )
        return self._tables[levels]


def _best(found: Iterable[Choice | None], losses: Sequence[Sequence[float]]) -> Choice | None:
    solved = [choice for choice in found if choice is not None]
    return min(solved, key=lambda choice: (total(losses, choice), choice), default=None)


def total(losses: Sequence[Sequence[float]], choice: Sequence[int]) -> float:
    """Sum of the losses of a choice."""
    return float(sum(row[level] for row, level in zip(losses, choice, strict=True)))


def split(sizes: Sequence[int], cost: Callable[[Choice], float]) -> tuple[list[int], list[int]]:
    """Hubs, and the places left, no two of which have a common cost term."""
    top = tuple(size - 1 for size in sizes)
    whole = cost(top)
    low = [cost((*top[:p], 0, *top[p + 1 :])) for p in range(len(top))]
    joined = {place: set() for place in range(len(top))}
    for one, other in itertools.combinations(range(len(top)), 2):
        both = list(top)
        both[one] = both[other] = 0
        if abs(cost(tuple(both)) - low[one] - low[other] + whole) > 1e-9 * abs(whole):
            joined[one].add(other)
            joined[other].add(one)
    hubs = []
    while any(joined.values()):
        hub = max(joined, key=lambda place: (len(joined[place]), -place))
        hubs.append(hub)
        for other in joined.pop(hub):
            joined[other].discard(hub)
    return sorted(hubs), sorted(joined)


def knapsack(
    costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float, bins: int = _BINS
) -> list[int] | None:
    """One level a place, least total loss, total cost within the budget, by dynamic programming over rounded-up costs.

    Args:
        costs, losses: one list a place, one number a level.
        budget: largest total cost.
    Returns:
        levels, or None if nothing fits.
    """
    unit = budget / bins if budget > 0 else 1.0
    best = np.zeros(bins + 1)
    steps_back = []
    for own_costs, own_losses in zip(costs, losses, strict=True):
        steps = [
            0 if value <= 0 else int(np.ceil(value / unit - 1e-9)) if value <= budget else bins + 1
            for value in own_costs
        ]
        table = np.full((len(steps), bins + 1), np.inf)
        for level, (step, loss) in enumerate(zip(steps, own_losses, strict=True)):
            if step <= bins:
                table[level, step:] = best[: bins + 1 - step] + loss
        levels = table.argmin(0)
        best = table[levels, np.arange(bins + 1)]
        steps_back.append((levels, steps))
    if not np.isfinite(best[bins]):
        return None
    place, picked = bins, []
    for levels, steps in reversed(steps_back):
        picked.append(int(levels[place]))
        place -= steps[picked[-1]]
    return picked[::-1]
