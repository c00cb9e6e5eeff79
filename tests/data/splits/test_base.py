"""Splits held out of one."""

from __future__ import annotations

import torch

from compresskit.data.splits.arrays import ArraySplit
from compresskit.data.splits.base import classes_of, divided


def test_a_fifth_is_held_out_and_nothing_is_in_both():
    splits = divided(ArraySplit(torch.arange(10)[:, None], torch.arange(10)), 10, ("a", "b"))
    parts = [split.take(torch.arange(len(split)))[1].tolist() for split in (splits.train, splits.test)]
    assert sorted(parts[0] + parts[1]) == list(range(10)) and len(parts[1]) == 2
    assert splits.classes == ("a", "b")


def test_a_handful_is_not_divided_and_says_so():
    for count, what in ((1, "the one example is train, val and test"), (9, "9 examples, too few to hold any out, are")):
        splits = divided(ArraySplit(torch.arange(count)[:, None], torch.arange(count)), None)
        for split in (splits.train, splits.val, splits.test):
            assert split.take(torch.arange(len(split)))[1].tolist() == list(range(count))
        assert splits.note.startswith(what)


def test_classes_are_whole_numbers_in_one_column():
    assert classes_of(torch.tensor([0, 4])) == 5
    assert classes_of(torch.tensor([0.0, 4.0])) is None and classes_of(torch.zeros(2, 2, dtype=torch.long)) is None
