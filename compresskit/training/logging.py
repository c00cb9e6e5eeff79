"""What a training run leaves to look at: a CSV, a loss-curve plot as SVG, TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.distributed import is_main
from ..core.errors import require

_WIDTH, _HEIGHT, _MARGIN = 640, 320, 48
_COLOURS = ("#1f6fb4", "#d1622b", "#2f8f4e", "#8a4fa8", "#7a7a7a", "#b8336a")


def write_csv(history: Sequence[dict[str, Any]], path: Path) -> None:
    """One line an epoch; columns in the order in which they first appear."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
    partial.replace(path)


def write_tensorboard(row: dict[str, Any], folder: Path, step: int) -> None:
    """Add one epoch's figures to TensorBoard event files.

    Raises:
        InputError: if tensorboard is not installed.
    """
    writer_class = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
    with writer_class(str(folder)) as writer:
        for name, value in row.items():
            if isinstance(value, int | float):
                writer.add_scalar(name, value, step)


def write_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Every series of a history against its epoch, each scaled to its own range, as an SVG.

    Args:
        history: one mapping an epoch; `epoch` is the horizontal axis, `seconds` and `lr` are not drawn.
        path: the .svg file.
    """
    names = list(dict.fromkeys(key for row in history for key in row if key not in ("epoch", "step", "seconds", "lr")))
    height = _HEIGHT + 20 * len(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<path d="M{_MARGIN} {_MARGIN // 2}V{_HEIGHT - _MARGIN}H{_WIDTH - _MARGIN // 2}" fill="none" stroke="#999"/>',
        f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 16}" text-anchor="middle">epoch</text>',
    ]
    for number, name in enumerate(names):
        points = [(row["epoch"], row[name]) for row in history if isinstance(row.get(name), int | float)]
        colour = _COLOURS[number % len(_COLOURS)]
        parts += _series(name, points, colour, _HEIGHT + 20 * number)
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


def _series(name: str, points: list[tuple[float, float]], colour: str, legend_y: int) -> list[str]:
    if not points:
        return []
    epochs, values = [x for x, _ in points], [y for _, y in points]
    left, right, low, high = 0.0, max(epochs), min(values), max(values)
    wide, tall = _WIDTH - 1.5 * _MARGIN, _HEIGHT - 1.5 * _MARGIN
    spots = [
        (
            _MARGIN + wide * (x - left) / (right - left or 1),
            _HEIGHT - _MARGIN - tall * ((y - low) / (high - low) if high > low else 0.5),
        )
        for x, y in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    return [
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in spots),
        f'<text x="{_MARGIN}" y="{legend_y}" fill="{colour}">{name}: {values[0]:.4g} to {values[-1]:.4g} '
        f"(lowest {low:.4g}, highest {high:.4g})</text>",
    ]


def curve_files(facts: dict[str, Any], folder: Any) -> dict[str, Path]:
    """Draw the loss curves of a training's facts into a folder; -> the files of a StepResult."""
    if folder is None or not is_main():
        return {}
    path = Path(folder) / "loss_curves.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_curves(facts["history"], path)
    return {"loss_curves.svg": path}
