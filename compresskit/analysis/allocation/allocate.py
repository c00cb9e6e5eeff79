"""Budgets shared out: one choice for each layer, the least sum of losses with every sum of costs within its limit.

This is the multiple-choice knapsack problem, with several knapsacks where there are several limits. States (what the
layers so far cost and lose) are extended layer by layer. Two things keep them few and lose no optimum: a state that
another beats in all costs and in loss goes, and so does one that cannot become better than the best solution known.
The latter is read from Lagrange multipliers of the limits: the *gap* of a choice is what it takes more than the layer's
best at the multipliers' prices, and the gaps of an optimum add up to no more than known loss minus the dual bound.

Source: Dyer, Riha & Walker, "A hybrid dynamic programming/branch-and-bound algorithm for the multiple-choice knapsack
problem", Journal of Computational and Applied Mathematics 1995 (bounds within the recursion).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: states that are kept after a layer, pass by pass: every pass finds a better solution, which leaves the next one fewer
#: states. 60 layers of 65 choices took 0.2 s on one core (a table over 4,096 rounded costs: 0.03 s, with 1 % more
#: loss). Where even the last number is exceeded, the result is the best of what was kept.
_PASSES = (64, 1000, 20_000)
#: states that are compared pair by pair where there are several limits
_COMPARED = 1500
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class _Layer:
    """Choices of a layer that no other of its choices beats.

    Attributes:
        choices: their places in the caller's list, (choices,).
        costs: (choices, limits).
        losses: (choices,).
    """

    choices: NDArray[np.int64]
    costs: Floats
    losses: Floats


def allocate(costs: Sequence[ArrayLike], losses: Sequence[ArrayLike], limits: ArrayLike) -> list[int] | None:
    """The choices of least total loss whose total costs are all within their limits.

    Args:
        costs: for each layer, (choices,) under one limit or (choices, limits) under several.
        losses: for each layer, (choices,).
        limits: largest sum of each cost.
    Returns:
        the index of the choice for each layer, or None if nothing fits.
    """
    limit = np.atleast_1d(np.asarray(limits, dtype=np.float64))
    layers = [_layer(cost, loss, len(limit)) for cost, loss in zip(costs, losses, strict=True)]
    limit = limit + _TOLERANCE * np.abs(limit)
    if (limit < sum((layer.costs.min(0) for layer in layers), np.zeros(len(limit)))).any():
        return None
    picks = [int(np.lexsort((layer.costs.sum(1), layer.losses))[0]) for layer in layers]
    if not _fits(layers, picks, limit):
        found = _allocate(layers, limit)
        if found is None:
            return None
        picks = found
    return [int(layer.choices[pick]) for layer, pick in zip(layers, picks, strict=True)]


def _layer(costs: ArrayLike, losses: ArrayLike, limits: int) -> _Layer:
    cost = np.asarray(costs, dtype=np.float64).reshape(-1, limits)
    loss = np.asarray(losses, dtype=np.float64)
    kept = _front(cost, loss)
    return _Layer(kept, cost[kept], loss[kept])


def _fits(layers: list[_Layer], picks: list[int], limit: Floats) -> bool:
    total = sum((layer.costs[pick] for layer, pick in zip(layers, picks, strict=True)), np.zeros(len(limit)))
    return bool((total <= limit).all())


def _allocate(layers: list[_Layer], limit: Floats) -> list[int] | None:
    """Picks within the layers' own choices; passes with ever more states, until one has room for all of them."""
    prices = _price(layers, limit) if len(limit) == 1 else _prices(layers, limit)
    reduced = [layer.losses + layer.costs @ prices for layer in layers]
    gaps = [row - row.min() for row in reduced]
    dual = float(sum(row.min() for row in reduced) - prices @ limit)
    best, known = None, np.inf
    for most in _PASSES:
        picks, complete = _states(layers, limit, gaps, known - dual + 1e-9 * abs(dual), most)
        if picks is not None:
            loss = sum(layer.losses[pick] for layer, pick in zip(layers, picks, strict=True))
            best, known = (picks, loss) if best is None or loss < known else (best, known)
        if complete:
            break
    return best


def _states(
    layers: list[_Layer], limit: Floats, gaps: list[Floats], slack: float, most: int
) -> tuple[list[int] | None, bool]:
    """(picks of the best state after all layers or None, whether no state had to be given up for number).

    Args:
        gaps: of every choice of every layer.
        slack: largest sum of gaps of what is worth following.
        most: states that are kept after a layer.
    """
    least = np.array([layer.costs.min(0) for layer in layers])
    later = np.cumsum(least[::-1], axis=0)[::-1] - least  # what the layers behind cost at least
    costs, losses, spent = np.zeros((1, len(limit))), np.zeros(1), np.zeros(1)
    steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    complete = True
    for layer, gap, needed in zip(layers, gaps, later, strict=True):
        spent_now = (spent[:, None] + gap).reshape(-1)
        kept = np.flatnonzero(spent_now <= slack)
        parents, picks = np.divmod(kept, len(gap))
        costs_now = costs[parents] + layer.costs[picks]
        fitting = (costs_now <= limit - needed + _TOLERANCE * np.abs(limit)).all(1)
        kept, parents, picks, costs_now = kept[fitting], parents[fitting], picks[fitting], costs_now[fitting]
        losses_now, spent_now = losses[parents] + layer.losses[picks], spent_now[kept]
        front = _front(costs_now, losses_now)
        if len(front) > most:
            front, complete = _thinned(front, costs_now, spent_now, most), False
        costs, losses, spent = costs_now[front], losses_now[front], spent_now[front]
        steps.append((parents[front], picks[front]))
        if not len(front):
            return None, complete
    state, chosen = int(losses.argmin()), []
    for parents, picks in reversed(steps):
        chosen.append(int(picks[state]))
        state = int(parents[state])
    return chosen[::-1], complete


def _thinned(front: NDArray[np.int64], costs: Floats, spent: Floats, most: int) -> NDArray[np.int64]:
    """Of states in order of their first cost, those of the smallest gaps in equal parts of the order."""
    parts = np.linspace(0, len(front), most + 1).astype(np.int64)
    order = np.lexsort((spent[front], np.searchsorted(parts, np.arange(len(front)), side="right")))
    cheapest = front[(costs[front] / np.maximum(costs[front].max(0), 1e-300)).max(1).argmin()]
    return np.unique(np.append(front[order[parts[:-1]]], cheapest))


def _front(costs: Floats, losses: Floats) -> NDArray[np.int64]:
    """Rows that no other beats in all costs and in loss, in order of the first cost; of equal rows the first.

    Args:
        costs: (rows, limits).
        losses: (rows,).
    """
    order = np.lexsort((losses, *costs.T[::-1]))
    if costs.shape[1] == 1:
        best_before = np.minimum.accumulate(np.append(np.inf, losses[order][:-1]))
        return order[losses[order] < best_before]
    if len(order) > _COMPARED:
        return order
    rows = np.column_stack((costs, losses))[order]
    beaten = np.zeros(len(rows), dtype=bool)
    for number, row in enumerate(rows):
        if not beaten[number]:
            behind = rows[number + 1 :]  # what stands before costs less in the first cost, or as much and then less
            beaten[number + 1 :] |= (row <= behind).all(1)
    return order[~beaten]


def _price(layers: list[_Layer], limit: Floats) -> Floats:
    """The Lagrange multiplier of one limit, by bisection, (1,)."""
    width = max(len(layer.losses) for layer in layers)
    costs = np.stack([np.pad(layer.costs[:, 0], (0, width - len(layer.losses)), "edge") for layer in layers])
    losses = np.stack([np.pad(layer.losses, (0, width - len(layer.losses)), "edge") for layer in layers])
    rows = np.arange(len(layers))

    def cost(price: float) -> float:
        return float(costs[rows, (losses + price * costs).argmin(1)].sum())

    low, high = 0.0, max(np.ptp(losses), 1e-300) / max(np.ptp(costs), 1e-300)
    for _ in range(200):
        if cost(high) <= limit[0]:
            break
        low, high = high, 4 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= limit[0] else (middle, high)
    return np.array([high])


def _prices(layers: list[_Layer], limit: Floats) -> Floats:
    """Lagrange multipliers of several limits, from the linear relaxation, (limits,)."""
    from scipy.optimize import linprog
    from scipy.sparse import block_diag

    scale = np.maximum(np.abs(limit), 1e-300)
    found = linprog(
        np.concatenate([layer.losses for layer in layers]),
        A_ub=np.concatenate([layer.costs for layer in layers]).T / scale[:, None],
        b_ub=limit / scale,
        A_eq=block_diag([np.ones((1, len(layer.losses))) for layer in layers]),
        b_eq=np.ones(len(layers)),
    )
    return np.maximum(-found.ineqlin.marginals, 0) / scale if found.success else np.zeros(len(limit))


def allocate_rounded(costs: list[list[float]], losses: list[list[float]], budget: float, bins: int) -> list[int] | None:
    """`allocate` under one budget, for costs rounded up to a part of it: faster, and near the best.

    Costs are rounded up to budget / bins, so a solution never exceeds the budget; it is the exact optimum for the
    rounded costs. The hub levels of `several_budgets` ask for thousands of solutions; 30 places of 9 levels took it
    0.57 s by this table, and 2.1 s by `allocate` with states limited to 64 (2 cores, one thread).

    Args:
        costs, losses: one list a layer, one number a choice.
        budget: largest total cost.
        bins: equal parts of the budget that costs are rounded up to.
    Returns:
        the index of the choice for each layer, or None if even the cheapest choices exceed the budget.
    """
    if not costs:
        return [] if budget >= 0 else None
    if budget <= 0:
        return None
    # what every layer costs at least is taken off first, so that the bins resolve only what there is to choose
    floors = [min(row) for row in costs]
    spare = budget - sum(floors)
    if spare < 0:
        return None
    unit = spare / bins
    best = np.zeros(bins + 1)
    picks = []
    for row, floor, loss in zip(costs, floors, losses, strict=True):
        steps = [0 if cost == floor else _steps(cost - floor, unit, bins) for cost in row]
        table = np.full((len(row), bins + 1), np.inf)
        for choice, (step, own) in enumerate(zip(steps, loss, strict=True)):
            if step <= bins:
                table[choice, step:] = best[: bins + 1 - step] + own
        pick = table.argmin(0)
        best = table[pick, np.arange(bins + 1)]
        picks.append((pick, steps))
    place, chosen = bins, []
    for pick, steps in reversed(picks):
        chosen.append(int(pick[place]))
        place -= steps[chosen[-1]]
    return chosen[::-1]


def _steps(extra: float, unit: float, bins: int) -> int:
    if unit <= 0 or extra / unit > bins + 1e-9:
        return bins + 1
    return int(np.ceil(extra / unit - 1e-9))
