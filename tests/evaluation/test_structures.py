"""Outputs of any structure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compresskit.evaluation.structures import in_columns, map_tensors, tensors_in


@dataclass
class Output:
    logits: Tensor
    hidden: tuple


def test_tensors_of_a_nested_structure():
    tree = Output(torch.ones(2), ({"a": torch.zeros(1)}, [torch.full((1,), 2.0)], "text"))
    assert [float(tensor.sum()) for tensor in tensors_in(tree)] == [2, 0, 2]
    doubled = map_tensors(lambda tensor: tensor * 2, tree)
    assert doubled["logits"].tolist() == [2, 2] and doubled["hidden"][1][0].tolist() == [4]
    assert doubled["hidden"][2] == "text"


def test_a_list_of_whole_batches_becomes_columns():
    heads = [torch.zeros(4, 2), torch.zeros(4, 3)]
    assert isinstance(in_columns(heads, 4), tuple)
    images = [torch.zeros(3, 5, 5), torch.zeros(3, 6, 6)]
    assert in_columns(images, 2) is images
