"""Arrays as splits."""

from __future__ import annotations

import numpy as np
import torch

from compresskit.data.splits.arrays import array_split


def test_types_of_inputs_and_targets():
    split = array_split(np.zeros((4, 2)), np.arange(4, dtype=np.int16), "d")
    assert split.inputs.dtype == torch.float32 and split.targets.dtype == torch.int64
    split = array_split(np.zeros((4, 2), np.uint8), np.arange(4.0), "d")
    assert split.inputs.dtype == torch.uint8 and split.targets.dtype == torch.float32  # floats are no classes
    inputs, targets = split.subset(torch.tensor([3])).take(torch.tensor([0]))
    assert inputs.shape == (1, 2) and targets.tolist() == [3.0]
