"""Splits held out of one."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.splits.arrays import ArraySplit
from compresskit.data.splits.base import classes_of, divided


def test_a_fifth_is_held_out_and_nothing_is_in_both():
    splits = divided(ArraySplit(torch.arange(10)[:, None], torch.arange(10)), 10, ("a", "b"))
    parts = [split.take(torch.arange(len(split)))[1].tolist() for split in (splits.train, splits.test)]
    assert sorted(parts[0] + parts[1]) == list(range(10)) and len(parts[1]) == 2
    assert splits.classes == ("a", "b")
    with pytest.raises(InputError, match="too few"):
        divided(ArraySplit(torch.ones(1, 2), torch.ones(1)), None)


def test_classes_are_whole_numbers_in_one_column():
    assert classes_of(torch.tensor([0, 4])) == 5
    assert classes_of(torch.tensor([0.0, 4.0])) is None and classes_of(torch.zeros(2, 2, dtype=torch.long)) is None
