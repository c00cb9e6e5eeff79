"""The rows of a bench as a picture: latency against the metric, or against size where there is no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...artifact.disk import files, ownership
from ...core.errors import InputError, require

_SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(output: str, *, force: bool) -> None:
    """Refuse a plot that could not be written, before anything is measured.

    Raises:
        InputError: if the suffix is unknown, something is there, or matplotlib is missing.
    """
    if Path(output).suffix not in _SUFFIXES:
        raise InputError(f"plot {output!r} must end in {', '.join(_SUFFIXES)}")
    require("matplotlib", "plot")
    ownership.check_file(ownership.absolute(output), force=force, inputs=[])


def write_plot(output: str, rows: list[dict[str, Any]]) -> None:
    """Draw a point a row, those of the Pareto front filled and joined.

    Args:
        output: file to write.
        rows: as `bench` returns them.
    """
    figures = require("matplotlib.figure", "plot")
    metric = next((row["metric"]["name"] for row in rows if row.get("metric")), None)
    points = [
        (row["latency"][-1]["median_ms"], row["metric"]["value"] if metric else (row["size_bytes"] or 0) / 1e6)
        for row in rows
    ]
    figure = figures.Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    front = sorted(point for point, row in zip(points, rows, strict=True) if row["best"])
    axes.plot(*zip(*front, strict=True), color="0.6", linewidth=1, zorder=1)
    for (x, y), row in zip(points, rows, strict=True):
        axes.scatter(x, y, s=45, zorder=2, color="#1f5fa8", facecolor="#1f5fa8" if row["best"] else "white")
        name = f"{Path(row['model']).name or row['model']} ({row['runtime']})"
        axes.annotate(name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
    batch = rows[0]["latency"][-1]["batch_size"]
    axes.set_xlabel(f"latency, ms at batch {batch}")
    axes.set_ylabel(metric or "size, MB")
    axes.grid(alpha=0.3)
    axes.margins(0.2)
    with files.replacing_file(ownership.absolute(output)) as path:
        figure.savefig(path, format=path.suffix[1:])
