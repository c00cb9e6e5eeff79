"""The CSV, the curves and the events of a training run."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree

import pytest

from compresskit.core.errors import InputError
from compresskit.training import logging

HISTORY = [
    {"epoch": 1.0, "step": 10, "loss": 2.0, "lr": 0.1, "seconds": 1.0},
    {"epoch": 2.0, "step": 20, "loss": 1.0, "lr": 0.0, "val_top1": 0.5, "seconds": 2.0},
]


def test_columns_stand_as_they_first_appear_and_missing_cells_are_empty(tmp_path):
    logging.write_csv(HISTORY, tmp_path / "training.csv")
    with open(tmp_path / "training.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "step", "loss", "lr", "seconds", "val_top1"]
    assert [row["val_top1"] for row in rows] == ["", "0.5"]


def test_curves_run_over_the_whole_width_and_height(tmp_path):
    logging.write_curves(HISTORY, tmp_path / "curves.svg")
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    lines = [e for e in root.iter() if e.tag.endswith("polyline")]
    (x0, y0), (x1, y1) = (tuple(map(float, point.split(","))) for point in lines[0].get("points").split())
    assert x0 < x1
    assert y0 < y1  # the loss fell, and y runs downwards
    legend = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert "loss: 2 to 1 (lowest 1, highest 2)" in legend


def test_one_epoch_is_one_point(tmp_path):
    logging.write_curves(HISTORY[:1], tmp_path / "curves.svg")
    assert "<circle" in (tmp_path / "curves.svg").read_text()


def test_tensorboard_is_written_or_its_install_line_named(tmp_path):
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match=r"pip install 'compresskit\[tensorboard\]'"):
            logging.write_tensorboard(HISTORY[0], tmp_path, 10)
        return
    logging.write_tensorboard(HISTORY[0], tmp_path, 10)
    assert list(tmp_path.glob("events*"))
