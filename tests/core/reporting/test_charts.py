"""Curves are drawn to scale, and say where they start and end."""

from __future__ import annotations

import re

from compresskit.core.reporting.charts import curve

HISTORY = [
    {"epoch": 1.0, "step": 20, "loss": 2.0, "val_top1": 0.5, "lr": 0.1},
    {"epoch": 2.0, "step": 40, "loss": 1.0, "val_top1": 0.75, "lr": 0.05},
    {"epoch": 3.0, "step": 60, "loss": 0.0, "val_top1": 0.5, "lr": 0.0},
]


def points(drawing: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'points="([^"]*)"', drawing)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]


def test_each_quantity_is_a_line_over_its_own_range():
    loss, metric = points(curve(HISTORY))
    assert loss == [(8.0, 8.0), (320.0, 80.0), (632.0, 152.0)]  # y grows downwards
    assert metric == [(8.0, 152.0), (320.0, 8.0), (632.0, 152.0)]
    assert "epochs 1 to 3, each line on its own scale" in curve(HISTORY)
    assert "loss: 2 to 0" in curve(HISTORY) and "val top1: 0.5 to 0.5" in curve(HISTORY)
    assert "lr" not in re.sub("<[^>]*>", "", curve(HISTORY))


def test_what_is_no_curve_is_not_drawn():
    assert curve([]) == curve(HISTORY[:1]) == ""
    assert len(points(curve([*HISTORY, {"epoch": 4.0, "loss": float("nan"), "val_top1": 0.5}])[0:])[0]) == 3
    assert [y for _, y in points(curve([{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 1.0}]))[0]] == [80.0, 80.0]


def test_names_are_escaped():
    assert "<b>" not in curve([{"epoch": 1, "<b>": 1.0}, {"epoch": 2, "<b>": 2.0}])
