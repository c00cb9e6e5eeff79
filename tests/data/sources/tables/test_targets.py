"""Columns of a table as targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.sources.tables.table import Table
from compresskit.data.sources.tables.targets import numbers_of_targets


def targets(**columns):
    rows = [
        (number, dict(zip(columns, row, strict=True)))
        for number, row in enumerate(zip(*columns.values(), strict=True), 2)
    ]
    return numbers_of_targets(Table("data file 'd'", Path(), list(columns), rows), list(columns))


@pytest.mark.parametrize("cells", [([0, 1], [1, 1]), (["False", "True"], ["true", "TRUE"]), ([False, True], [1, 1])])
def test_columns_of_zeros_and_ones_or_truth_values_are_labels(cells):
    found = targets(red=cells[0], blue=cells[1])
    assert found.values.dtype == torch.int64 and found.values.tolist() == [[0, 1], [1, 1]]
    assert found.num_classes is None and found.classes == ()


def test_other_numbers_stay_numbers():
    for columns in ({"a": [0, 1], "b": [1, 2]}, {"a": [0.0, 1.0], "b": [1, 1]}):
        found = targets(**columns)
        assert found.values.is_floating_point() and found.values.T.tolist() == [
            list(map(float, c)) for c in columns.values()
        ]
    with pytest.raises(
        InputError, match="line 2: column 'b' holds 'yes'; several target columns are numbers, or labels"
    ):
        targets(a=[0, 1], b=["yes", "no"])


def test_lists_of_zeros_and_ones_are_labels():
    assert targets(tags=[[0, 1], [1, 1]]).values.dtype == torch.int64
    assert targets(tags=[[0, 1], [1, 2]]).values.dtype == torch.float32
    assert targets(tags=[[0.0, 1.0], [1.0, 1.0]]).values.dtype == torch.float32


def test_one_column_of_text_or_of_whole_numbers_is_classes():
    found = targets(label=["b", "a", "b"])
    assert found.values.tolist() == [1, 0, 1] and found.classes == ("a", "b") and found.num_classes == 2
    assert targets(label=[0, 2, 1]).num_classes == 3
    assert targets(label=[0.0, 2.0, 1.0]).num_classes is None
    with pytest.raises(InputError, match="every row needs a number in column 'label'"):
        targets(label=[1, "a", 2])
