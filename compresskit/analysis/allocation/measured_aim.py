"""Budgets that only measuring can tell: what to aim at next, and which of the measured choices to take."""

from __future__ import annotations

from typing import Any

#: a measured share this close below its target is close enough
CLOSE = 0.97


def next_aim(tried: list[tuple[float, float]], target: float) -> float:
    """The predicted share to try next, from measured cuts: on the line between the nearest ones on both sides.

    Args:
        tried: (measured share, predicted share) of each cut so far; the whole model, (1, 1), is known besides.
        target: the measured share that is wanted.
    """
    goal = target * (1 + CLOSE) / 2  # the middle of what counts as close
    slower = min([(1.0, 1.0), *(one for one in tried if one[0] > target)])
    faster = max([one for one in tried if one[0] <= target], default=None)
    if faster is None:  # beyond the slowest known: the line through the whole model, at most halving the aim
        saved = max(1 - slower[0], 1e-3)
        return max(1 - (1 - goal) * (1 - slower[1]) / saved, slower[1] / 2) if slower[1] < 1 else target
    part = (goal - faster[0]) / max(slower[0] - faster[0], 1e-9)
    return faster[1] + min(max(part, 0.1), 0.9) * (slower[1] - faster[1])


def best_share(tried: list[tuple[float, float, Any]], target: float) -> tuple[float, float, Any]:
    """Of measured cuts, the slowest within the target, else the fastest."""
    within = [one for one in tried if one[0] <= target]
    return max(within, key=lambda one: one[0]) if within else min(tried, key=lambda one: one[0])
