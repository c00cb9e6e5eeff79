"""Examples of Datasets and of batches that can be read only once."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.splits.examples import HeldSplit, held


def test_batches_of_one_shape_are_two_tensors_and_others_examples():
    inputs, targets, _ = held(
        iter([(torch.ones(2, 3), torch.tensor([0, 1])), (torch.ones(1, 3), torch.tensor([2]))]), "d"
    )
    assert inputs.shape == (3, 3) and targets.tolist() == [0, 1, 2]
    split = held([([torch.ones(3, 2, 2), torch.ones(3, 4, 1)], [{"boxes": torch.ones(1, 4)}] * 2)], "d")
    assert isinstance(split, HeldSplit) and len(split) == 2
    images, targets = split.subset(torch.tensor([1])).take(torch.tensor([0]))
    assert images[0][0].shape == (3, 4, 1) and len(targets) == 1


def test_more_inputs_than_targets_are_refused():
    with pytest.raises(InputError, match="a batch has 3 inputs but 2 targets"):
        held([(torch.ones(3, 2), torch.zeros(2))], "d")
