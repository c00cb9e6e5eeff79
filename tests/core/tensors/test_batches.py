"""Structures of batches: counted, divided and joined to the same batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compresskit.core.tensors.batches import count_examples, divided, join, map_tensors, pick, tensors_of

IMAGES = [torch.arange(12.0).reshape(3, 2, 2), torch.ones(3, 4, 1), torch.zeros(3, 1, 1)]
BATCHES = {
    "tensor": torch.arange(6).reshape(3, 2),
    "mapping": {"ids": torch.arange(3), "mask": torch.ones(3, 4)},
    "tuple": (torch.arange(3.0), {"a": torch.arange(3)}),
    "images of several sizes": (IMAGES,),
    "detections": [{"boxes": torch.rand(number, 4), "labels": torch.arange(number)} for number in range(3)],
}


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return type(first) is type(second) and len(first) == len(second) and all(map(same, first, second))


def test_every_structure_comes_apart_and_together_again():
    for name, batch in BATCHES.items():
        assert count_examples(batch) == 3, name
        parts = divided(batch)
        assert [count_examples(part) for part in parts] == [1, 1, 1], name
        assert same(join(parts), batch), name
        assert same(join([parts[2], parts[0]]), pick(batch, torch.tensor([2, 0]))), name


def test_what_counts_no_examples():
    assert (count_examples(torch.tensor(1.0)), count_examples("a"), count_examples({})) == (0, 0, 0)
    assert count_examples((torch.tensor(1.0), torch.zeros(4))) == 4


@dataclass
class Output:
    logits: Tensor
    hidden: tuple


def test_tensors_of_a_nested_structure():
    tree = Output(torch.ones(2), ({"a": torch.zeros(1)}, [torch.full((1,), 2.0)], "text"))
    assert [float(tensor.sum()) for tensor in tensors_of(tree)] == [2, 0, 2]
    doubled = map_tensors(tree, lambda tensor: tensor * 2)
    assert doubled["logits"].tolist() == [2, 2] and doubled["hidden"][1][0].tolist() == [4]
    assert doubled["hidden"][2] == "text"
