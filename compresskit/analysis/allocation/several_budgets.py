"""Budgets allocated: least total loss over all places within one or more loads that need not be additive.

Loads of neighbouring places multiply (a convolution costs inputs times outputs, and its bytes are that times bits).
Places are split into *hubs* and small *blocks* of the others, so that no two blocks share a term of a load: with the
hubs' levels fixed, a load is a sum over blocks, and dynamic programming finds the best option of each. Hubs are
enumerated where that is affordable, and improved one at a time otherwise.

Several budgets become one, the weighted mean of their loads. Whatever fits all budgets fits the mean, so where the best
choice under the mean fits them all, none is better; the weights move towards the loads that are exceeded until it
does. What still exceeds one is repaired step by step.

Source: Glover, "A Multiphase-Dual Algorithm for the Zero-One Integer Programming Problem", Operations Research 1965
(surrogate constraints).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np

from .allocate import allocate, allocate_rounded

#: combinations of hub levels that are tried one by one: at first, and where an earlier choice is near
_ENUMERATED, _ENUMERATED_NEAR = 256, 32
#: combinations of levels in a block of places
_BLOCK = 64
_BINS = 1000
#: weights of the budgets that are tried: at first, and where an earlier choice is near
_WEIGHTINGS, _WEIGHTINGS_NEAR = 10, 3
#: how fast weights follow an exceeded load, at first
_STEP = 4.0
_WITHIN = 1 + 1e-9

Choice = tuple[int, ...]

#: where hub levels start from, few hubs from each of them: half, whole, cheapest
_STARTS = ((lambda size: size // 2), (lambda size: size - 1), (lambda size: 0))
_FEW_HUBS = 6
#: how far many hubs move at a time
_REACH = 2
_ROUNDS = 6


class Allocator:
    """Solves the loads of one problem for any losses.

    Args:
        sizes: number of levels of each place.
        loads: choice -> its cost relative to each budget, growing in every level; at most 1 fits.
    """

    def __init__(self, sizes: Sequence[int], loads: Callable[[Choice], Sequence[float]]):
        self.sizes = list(sizes)
        self._loads = loads
        joined = interactions(self.sizes, self.loads)
        self.hubs, self.blocks = split(self.sizes, joined)
        self._options = [list(itertools.product(*(range(self.sizes[p]) for p in block))) for block in self.blocks]
        self._touched = [[hub for hub in self.hubs if joined[hub].intersection(block)] for block in self.blocks]
        self._floors: dict[Choice, np.ndarray] = {}
        self._tables: dict[tuple[int, Choice], np.ndarray] = {}
        count = len(self.loads((0,) * len(self.sizes)))
        self._weights = np.full(count, 1 / max(count, 1))

    def loads(self, choice: Sequence[int]) -> np.ndarray:
        """Cost of a choice relative to each budget, (budgets,)."""
        return np.asarray(self._loads(tuple(choice)), dtype=np.float64)

    def fits(self, choice: Sequence[int]) -> bool:
        """Whether a choice is within all budgets."""
        return bool((self.loads(choice) <= _WITHIN).all())

    def solve(self, losses: Sequence[Sequence[float]], start: Sequence[int] | None = None) -> Choice | None:
        """Least sum of losses within all budgets.

        Where the loads are sums over blocks, that is exact. With one budget it is exact up to costs rounded by a
        thousandth of the budget, where the hubs can be enumerated; with several it is so where the best choice under a
        weighted mean fits.

        Args:
            losses: of every level of every place.
            start: a choice near which hub levels are improved, where they are many.
        Returns:
            the choice, or None if nothing fits.
        """
        solved, best = self._options_losses(losses), None
        if not self.hubs and (found := self._additive(solved)) is not None:
            return found
        for number in range(_WEIGHTINGS if start is None else _WEIGHTINGS_NEAR):
            found = self._weighted(losses, solved, start)
            if found is None:
                break  # not even the mean of the loads can be met
            loads = self.loads(found)
            best = _best([best, self._mended(losses, found)], losses)
            if (loads <= _WITHIN).all():
                break
            start = found
            weights = self._weights * np.maximum(loads, 1e-9) ** (_STEP / (1 + number) ** 0.5)
            self._weights = weights / weights.sum()
        return best

    def _additive(self, solved: list[list[float]]) -> Choice | None:
        """The best options of the blocks where no load joins them."""
        floor = self._floor(())
        costs = [self._table(number, ()) for number in range(len(self.blocks))]
        picked = allocate(costs, solved, _WITHIN - floor)
        return None if picked is None else self._choice((), [self._options[n][p] for n, p in enumerate(picked)])

    # -- one weighted load --------------------------------------------------------------------------------------------

    def _options_losses(self, losses: Sequence[Sequence[float]]) -> list[list[float]]:
        """Loss of every option of every block."""
        return [
            [sum(losses[place][level] for place, level in zip(block, option, strict=True)) for option in options]
            for block, options in zip(self.blocks, self._options, strict=True)
        ]

    def _weighted(
        self, losses: Sequence[Sequence[float]], solved: list[list[float]], start: Sequence[int] | None
    ) -> Choice | None:
        """The best choice whose weighted mean of loads is at most 1."""
        inner = cache(lambda levels: self._inner(solved, levels))
        count = np.prod([self.sizes[hub] for hub in self.hubs], dtype=np.float64)
        if count <= (_ENUMERATED if start is None else _ENUMERATED_NEAR):
            combinations = itertools.product(*(range(self.sizes[hub]) for hub in self.hubs))
            return _best(map(inner, combinations), losses)
        if start is not None:
            return self._improved(losses, inner, tuple(start[hub] for hub in self.hubs), reach=1)
        few = len(self.hubs) <= _FEW_HUBS
        starts = [tuple(pick(self.sizes[hub]) for hub in self.hubs) for pick in (_STARTS if few else _STARTS[:1])]
        reach = max(self.sizes) if few else _REACH
        return _best((self._improved(losses, inner, one, reach=reach) for one in starts), losses)

    def _improved(
        self, losses: Sequence[Sequence[float]], inner: Callable[[Choice], Choice | None], levels: Choice, *, reach: int
    ) -> Choice | None:
        """Hub levels changed one at a time, each to its best within reach, until nothing gets better."""
        best = inner(levels)
        for _ in range(_ROUNDS):
            before = best
            for position, hub in enumerate(self.hubs):
                near = range(max(0, levels[position] - reach), min(self.sizes[hub], levels[position] + reach + 1))
                trials = [(*levels[:position], level, *levels[position + 1 :]) for level in near]
                best = _best([best, *map(inner, trials)], losses)
                if best is not None:
                    levels = tuple(best[h] for h in self.hubs)
            if best == before:
                break
        return best

    def _inner(self, solved: list[list[float]], levels: Choice) -> Choice | None:
        """The best options of the blocks, the hubs' levels given; None if nothing fits."""
        costs, rows, kept = [[float(self._floor(levels) @ self._weights)]], [[0.0]], [[0]]
        at = dict(zip(self.hubs, levels, strict=True))
        for number, own in enumerate(solved):
            weighted = self._table(number, tuple(at[hub] for hub in self._touched[number])) @ self._weights
            useful = undominated(weighted.tolist(), own)
            kept.append(useful)
            costs.append([max(float(weighted[option]), 0.0) for option in useful])
            rows.append([own[option] for option in useful])
        picked = allocate_rounded(costs, rows, _WITHIN, _BINS)
        if picked is None:
            return None
        rows_of_options = zip(self._options, kept[1:], picked[1:], strict=True)
        return self._choice(levels, [options[useful[pick]] for options, useful, pick in rows_of_options])

    def _choice(self, hub_levels: Choice, options: Sequence[Choice]) -> Choice:
        """Levels of all places, from those of the hubs and the option of each block."""
        found = [0] * len(self.sizes)
        for hub, level in zip(self.hubs, hub_levels, strict=True):
            found[hub] = level
        for block, option in zip(self.blocks, options, strict=True):
            for place, level in zip(block, option, strict=True):
                found[place] = level
        return tuple(found)

    def _floor(self, levels: Choice) -> np.ndarray:
        """Loads with the hubs at these levels and everything else at its lowest, (budgets,)."""
        if levels not in self._floors:
            self._floors[levels] = self.loads(self._base(zip(self.hubs, levels, strict=True)))
        return self._floors[levels]

    def _table(self, number: int, levels: Choice) -> np.ndarray:
        """What each option of a block adds to the loads, (options, budgets), at levels of the hubs that it touches."""
        key = (number, levels)
        if key not in self._tables:
            base = self._base(zip(self._touched[number], levels, strict=True))
            floor, rows = self.loads(base), []
            for option in self._options[number]:
                changed = list(base)
                for place, level in zip(self.blocks[number], option, strict=True):
                    changed[place] = level
                rows.append(self.loads(changed) - floor)
            self._tables[key] = np.stack(rows)
        return self._tables[key]

    def _base(self, given: Iterable[tuple[int, int]]) -> list[int]:
        base = [0] * len(self.sizes)
        for place, level in given:
            base[place] = level
        return base

    # -- several loads ------------------------------------------------------------------------------------------------

    def _mended(self, losses: Sequence[Sequence[float]], choice: Choice) -> Choice | None:
        """Steps down, each where it costs least for what it takes off the excess, then steps up while they fit."""
        levels = list(choice)
        while not self.fits(levels):
            excess = _excess(self.loads(levels))
            steps = []
            for place, lowered in self._steps(levels, -1):
                less = excess - _excess(self.loads(lowered))
                if less > 0:
                    lost = losses[place][levels[place] - 1] - losses[place][levels[place]]
                    steps.append((lost / less, place, lowered))
            if not steps:
                return None
            levels = min(steps, key=lambda step: step[:2])[2]
        while True:
            steps = [
                (losses[place][raised[place]] - losses[place][levels[place]], place, raised)
                for place, raised in self._steps(levels, +1) if self.fits(raised)
            ]  # fmt: skip
            gain, _, raised = min(steps, key=lambda step: step[:2], default=(0.0, 0, levels))
            if gain >= 0:
                return tuple(levels)
            levels = raised

    def _steps(self, levels: list[int], step: int) -> Iterator[tuple[int, list[int]]]:
        """Every place that can take a step, with the levels after it."""
        for place, level in enumerate(levels):
            if 0 <= level + step < self.sizes[place]:
                yield place, [*levels[:place], level + step, *levels[place + 1 :]]


def _excess(loads: np.ndarray) -> float:
    return float(np.maximum(loads - 1, 0).sum())


def _best(found: Iterable[Choice | None], losses: Sequence[Sequence[float]]) -> Choice | None:
    solved = [choice for choice in found if choice is not None]
    return min(solved, key=lambda choice: (total(losses, choice), choice), default=None)


def total(losses: Sequence[Sequence[float]], choice: Sequence[int]) -> float:
    """Sum of the losses of a choice."""
    return float(sum(row[level] for row, level in zip(losses, choice, strict=True)))


def undominated(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Options that no other beats in both cost and loss, cheapest first."""
    found: list[int] = []
    for option in np.lexsort((losses, costs)).tolist():
        if not found or losses[option] < losses[found[-1]]:
            found.append(option)
    return found


def interactions(sizes: Sequence[int], loads: Callable[[Choice], np.ndarray]) -> list[set[int]]:
    """For each place, the places with which it shares a term of a load."""
    top = tuple(size - 1 for size in sizes)
    whole = loads(top)
    low = [loads((*top[:place], 0, *top[place + 1 :])) for place in range(len(top))]
    joined: list[set[int]] = [set() for _ in top]
    for one, other in itertools.combinations(range(len(top)), 2):
        both = list(top)
        both[one] = both[other] = 0
        if (np.abs(loads(tuple(both)) - low[one] - low[other] + whole) > 1e-9 * np.abs(whole)).any():
            joined[one].add(other)
            joined[other].add(one)
    return joined


def split(sizes: Sequence[int], joined: Sequence[set[int]]) -> tuple[list[int], list[list[int]]]:
    """Hubs, and the places left in blocks that share nothing with each other and have few combinations of levels."""
    hubs: list[int] = []
    while True:
        blocks = _components(len(sizes), joined, hubs)
        large = [b for b in blocks if len(b) > 1 and np.prod([sizes[p] for p in b], dtype=np.float64) > _BLOCK]
        if not large:
            return sorted(hubs), blocks
        for block in large:
            hubs.append(max(block, key=lambda place: (len(joined[place].difference(hubs)), -place)))


def _components(count: int, joined: Sequence[set[int]], hubs: Sequence[int]) -> list[list[int]]:
    """Places other than hubs, in sorted sets that are connected among themselves."""
    unseen = [place for place in range(count) if place not in hubs]
    blocks = []
    while unseen:
        block, edge = set(), [unseen[0]]
        while edge:
            place = edge.pop()
            if place not in block:
                block.add(place)
                edge += sorted(joined[place].difference(hubs, block))
        blocks.append(sorted(block))
        unseen = [place for place in unseen if place not in block]
    return blocks
