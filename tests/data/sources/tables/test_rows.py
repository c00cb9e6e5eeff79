"""Rows of tables as examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.core.types import Preprocessing
from compresskit.data.sources.tables.rows import Table, split_of


def table(**columns):
    cells = zip(*columns.values(), strict=True)
    rows = [(number, dict(zip(columns, row, strict=True))) for number, row in enumerate(cells, 2)]
    return Table("data file 'd'", Path(), list(columns), rows)


def everything(splits):
    parts = [split.take(torch.arange(len(split))) for split in (splits.train, splits.test)]
    return torch.cat([inputs for inputs, _ in parts]), torch.cat([targets for _, targets in parts])


def test_the_target_is_label_then_target_then_the_last():
    numbers = [n + 0.5 for n in range(12)]
    for names, expected in ((("a", "label", "target"), "label"), (("a", "target", "c"), "target"), (("a", "b"), "b")):
        columns = {name: [100 * place + n for n in numbers] for place, name in enumerate(names)}
        _, targets = everything(split_of(table(**columns), Preprocessing()))
        assert sorted(targets.tolist()) == columns[expected]


def test_whole_numbers_below_zero_are_no_classes():
    splits = split_of(table(a=range(12), label=[0, -1, 2] * 4), Preprocessing())
    assert splits.num_classes is None and everything(splits)[1].is_floating_point()
    assert split_of(table(a=range(12), label=[0, 1, 2] * 4), Preprocessing()).num_classes == 3


def test_a_table_of_targets_alone_is_refused():
    with pytest.raises(InputError, match="needs at least two columns"):
        split_of(table(a=[1, 2, 3], b=[1, 2, 3]), Preprocessing(), "a,b")
