"""One choice for each layer under one budget."""

from __future__ import annotations

import numpy as np

_BINS = 4096


def choose(costs: list[list[float]], losses: list[list[float]], budget: float, bins: int = _BINS) -> list[int] | None:
    """The choices of least total loss whose total cost is within the budget, by dynamic programming.

    Costs are rounded up to budget / bins, so a solution never exceeds the budget; it is the exact optimum for the
    rounded costs. Tables over bins are five and more times as fast here as states sorted by cost, which bits have
    (`quantization.allocation.solve`): those are few there, and their bytes are met exactly.

    Args:
        costs, losses: one list a layer, one number a choice.
        budget: largest total cost.
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
