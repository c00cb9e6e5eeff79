"""Streams: parts of them, what they say of their length, batches that come apart."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import IterableDataset

from compresskit.core.errors import InputError
from compresskit.data.splits.stream import EveryNth, of_batches, of_iterable


class Counted(IterableDataset):
    def __init__(self, says=20):
        self.says = says

    def __iter__(self):
        return ((torch.tensor([float(number)]), number) for number in range(20))

    def __len__(self):
        return self.says


def test_parts_and_the_rest_of_them_are_everything():
    chosen, rest = (EveryNth(5, chosen, most=2) for chosen in (True, False))
    assert list(chosen(range(20))) == [4, 9]
    assert sorted([*chosen(range(20)), *rest(range(20))]) == list(range(20))


def test_a_length_is_believed_and_parts_follow_from_it():
    split = of_iterable(Counted(), "'d'").part(EveryNth(4, False))
    assert (split.size, split.count(), split.count(limit=3)) == (20, 15, 3)


def test_an_empty_stream_is_refused():
    class Empty(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(InputError, match="data 'd' is empty"):
        of_iterable(Empty(), "'d'")


def test_batches_come_apart_and_together_in_another_size():
    batches = [(torch.ones(3, 2), torch.tensor([0, 1, 2])), (torch.zeros(1, 2), torch.tensor([3]))]
    split = of_batches(lambda epoch, processes: batches, "'d'")
    examples = list(split.examples(0, split.workers))
    inputs, targets = split.collated(examples)
    assert inputs.shape == (4, 2) and targets.tolist() == [0, 1, 2, 3]
    padded = of_batches(lambda epoch, processes: [(torch.ones(1, n), torch.tensor([n])) for n in (2, 3)], "'d'")
    with pytest.raises(InputError, match="differ in shape .* --collate pad"):
        padded.collated(list(padded.examples(0, padded.workers)))
    uneven = of_batches(lambda epoch, processes: [(torch.ones(2, 3), torch.tensor([0]))], "'d'")
    with pytest.raises(InputError, match="a batch has 2 inputs but 1 targets"):
        list(uneven.examples(0, uneven.workers))
