"""Inputs of several splits side by side."""

from __future__ import annotations

import torch

from compresskit.data.splits.arrays import ArraySplit
from compresskit.data.splits.side_by_side import SideBySide


def test_inputs_come_in_order_with_the_targets_of_the_same_examples():
    targets = torch.tensor([5, 6, 7])
    split = SideBySide([ArraySplit(torch.arange(3.0), targets), ArraySplit(torch.arange(6).reshape(3, 2), targets)])
    (one, other), found = split.take(torch.tensor([2, 0]))
    assert one.tolist() == [2, 0] and other.tolist() == [[4, 5], [0, 1]] and found.tolist() == [7, 5]
    fewer = split.subset(torch.tensor([1, 2]))
    assert len(split) == 3 and len(fewer) == 2 and fewer.take(torch.tensor([0]))[1].tolist() == [6]
