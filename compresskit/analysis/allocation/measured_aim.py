"""Budgets that only measuring can tell: what to aim at next, and which of the measured choices to take."""

from __future__ import annotations

from collections.abc import Callable
from operator import eq
from typing import Any, NamedTuple, TypeVar

from ...core.costs import cost_of, field_of

#: a measured share this close below its target is close enough
CLOSE = 0.97
#: a measured share exceeds its target where it is above by more than this share of it; timings scatter by less
SCATTER = 0.1

Candidate = TypeVar("Candidate")


class Tried(NamedTuple):
    """A choice that was built and measured: shares of the whole model's figure, and what was chosen."""

    measured: float
    predicted: float
    choice: Any


def seek(
    target: float,
    propose: Callable[[float], tuple[Candidate, float] | None],
    measure: Callable[[Candidate], float],
    *,
    attempts: int,
    close: float = CLOSE,
    same: Callable[[Any, Any], bool] = eq,
    tell: Callable[[int, Tried], None],
) -> list[Tried]:
    """Propose, build and measure, and let what was measured correct the aim, until a choice is close below the target.

    Args:
        target: the share that is wanted, measured.
        propose: aim -> a choice and the share that is predicted of it; None where there is none at that aim.
        measure: gives a choice's measured share.
        attempts: choices that are measured at most.
        close: the share of the target from which on a choice ends the search.
        same: whether two choices are the same, after which nothing new would come.
        tell: called with the number of each choice that was measured, and what was found.
    Returns:
        what was measured, in order.
    """
    tried: list[Tried] = []
    aim = target
    for number in range(1, attempts + 1):
        proposed = propose(aim)
        if proposed is None or any(same(proposed[0], earlier.choice) for earlier in tried):
            break
        choice, predicted = proposed
        found = Tried(measure(choice), predicted, choice)
        tell(number, found)
        tried.append(found)
        if target * close <= found.measured <= target:
            break
        aim = next_aim([one[:2] for one in tried], target)
    return tried


def next_aim(tried: list[tuple[float, float]], target: float) -> float:
    """The predicted share to try next, from measured cuts: on the line between the nearest ones on both sides.

    Args:
        tried: (measured share, predicted share) of each cut so far; the whole model, (1, 1), is known besides.
        target: the measured share that is wanted.
    """
    goal = target * (1 + CLOSE) / 2  # the middle of what counts as close
    slower = [one for one in tried if one[0] > target]
    faster = max([one for one in tried if one[0] <= target], default=None)
    if faster is None:  # beyond the fastest known: the line through the whole model, at most halving the aim
        nearest = min(slower, default=(1.0, 1.0))
        saved, lowest = max(1 - nearest[0], 1e-3), min([1.0, *(one[1] for one in slower)])
        return max(1 - (1 - goal) * (1 - nearest[1]) / saved, lowest / 2) if nearest[1] < 1 else target
    upper = min([(1.0, 1.0), *slower])
    part = (goal - faster[0]) / max(upper[0] - faster[0], 1e-9)
    return faster[1] + min(max(part, 0.1), 0.9) * (upper[1] - faster[1])


def exceeded(name: str, share: float, target: float, *, tolerance: float = SCATTER) -> str:
    """Which budget of a cost a share exceeds by more than a tolerance, a share of it; "" where it does not."""
    if share <= target * (1 + tolerance):
        return ""
    return f"{cost_of(name).noun}: {field_of(name)} asked for {target:.1%}, {share:.1%} stay"


def best_share(tried: list[Tried], target: float) -> Tried:
    """Of measured cuts, the slowest within the target, else the fastest."""
    within = [one for one in tried if one[0] <= target]
    return max(within, key=lambda one: one[0]) if within else min(tried, key=lambda one: one[0])
