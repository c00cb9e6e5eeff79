"""The loss of a model between the few errors of one layer at which it was measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

_STEEPEST = 4.0  # times the natural power; two noisy points near each other would else foretell anything


def loss_at(points: Sequence[tuple[float, float]], error: float, power: float) -> float:
    """The loss at an error, from measured (error, loss) points: straight lines between them in log-log axes.

    The loss never falls as the error grows. Below the first point it falls with `power`; above the last it grows with
    the last segment's power, but at least with `power` and at most with four times that.

    Args:
        points: at least one, in any order.
        error: where.
        power: with which the loss grows by nature: 1 for squared errors and divergences, 2 for norms of errors.
    """
    if error <= 0:
        return 0.0
    logs = [(math.log(max(x, 1e-9)), math.log(max(y, 1e-12))) for x, y in sorted(points)]
    rising = [(x, max(y for _, y in logs[: index + 1])) for index, (x, _) in enumerate(logs)]
    place = math.log(error)
    if place <= rising[0][0]:
        return math.exp(rising[0][1] + power * (place - rising[0][0]))
    for (x0, y0), (x1, y1) in itertools.pairwise(rising):
        if place <= x1:
            return math.exp(y0 + (y1 - y0) * (place - x0) / max(x1 - x0, 1e-12))
    last = power
    if len(rising) > 1 and rising[-1][0] - rising[-2][0] > 0.05:
        slope = (rising[-1][1] - rising[-2][1]) / (rising[-1][0] - rising[-2][0])
        last = min(max(slope, power), _STEEPEST * power)
    return math.exp(rising[-1][1] + last * (place - rising[-1][0]))
