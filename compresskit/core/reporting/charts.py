"""Drawings of a report's numbers as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from .results import printable

_WIDTH, _HEIGHT, _MARGIN = 640, 160, 8  # of a curve, in the drawing's own units
_COLOURS = 4  # of the page's style
_LEFT_OUT = ("epoch", "step", "lr", "seconds")


def curve(history: Sequence[Mapping[str, Any]]) -> Markup:
    """What training recorded, a line for each quantity over the epochs, each scaled to its own range; "" if there is
    less than two points.

    Args:
        history: records with "epoch" and numbers, in order.
    """
    names = dict.fromkeys(name for record in history for name in record if name not in _LEFT_OUT)
    lines = [
        (name, points)
        for name in names
        if len(points := [(r["epoch"], r[name]) for r in history if _is_finite(r.get(name))]) > 1
    ]
    if not lines:
        return Markup("")
    first, last = min(points[0][0] for _, points in lines), max(points[-1][0] for _, points in lines)
    epochs = f"epochs {first:.3g} to {last:.3g}, each line on its own scale"
    drawn, legend = [], [Markup("<span>{}</span>").format(epochs)]
    for number, (name, points) in enumerate(lines):
        low, high = min(y for _, y in points), max(y for _, y in points)
        path = " ".join(
            f"{_scaled(x, first, last, _WIDTH):.1f},{_HEIGHT - _scaled(y, low, high, _HEIGHT):.1f}" for x, y in points
        )
        drawn.append(Markup('<polyline class="line{}" points="{}"/>').format(number % _COLOURS, path))
        text = f"{name.replace('_', ' ')}: {points[0][1]:.4g} to {points[-1][1]:.4g}"
        legend.append(Markup('<span class="line{}">{}</span>').format(number % _COLOURS, printable(text)))
    return Markup(
        '<svg class="curve" viewBox="0 0 {} {}" role="img" aria-label="training">{}</svg><p class="legend">{}</p>'
    ).format(_WIDTH, _HEIGHT, Markup("").join(drawn), Markup("").join(legend))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _scaled(value: float, low: float, high: float, length: int) -> float:
    """Where a value stands between two margins; in the middle where there is no range."""
    share = (value - low) / (high - low) if high > low else 0.5
    return _MARGIN + share * (length - 2 * _MARGIN)
