"""Plots: figures that belong to nobody's window or notebook."""

from __future__ import annotations

from typing import Any

from ..errors import require


def new_figure(columns: int, size: tuple[float, float], layout: str | None = None) -> tuple[Any, Any]:
    """A figure with axes side by side, drawn to files alone: the caller's pyplot keeps its backend and its figures.

    Args:
        columns: number of axes.
        size: (width, height) in inches.
        layout: how matplotlib places the axes, "tight" or "constrained"; None leaves them.
    Returns:
        (matplotlib Figure, array of Axes, or the one of a single column).
    Raises:
        InputError: if matplotlib is not installed, with the install line.
    """
    figure = require("matplotlib.figure", "plot").Figure(figsize=size, layout=layout)
    return figure, figure.subplots(1, columns)
