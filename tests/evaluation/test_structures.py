"""Outputs of any structure as columns."""

from __future__ import annotations

import torch

from compresskit.evaluation.structures import in_columns


def test_a_list_of_whole_batches_becomes_columns():
    heads = [torch.zeros(4, 2), torch.zeros(4, 3)]
    assert isinstance(in_columns(heads, 4), tuple)
    images = [torch.zeros(3, 5, 5), torch.zeros(3, 6, 6)]
    assert in_columns(images, 2) is images
