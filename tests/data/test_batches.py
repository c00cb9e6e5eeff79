"""Batches of streams: the same ones wherever they are read and wherever reading starts, and none kept."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from compresskit.core.errors import InputError
from compresskit.core.user_code.in_memory import named_objects
from compresskit.data.dataset import open_data
from compresskit.data.splits import stream

# Python 3.12 warns of every fork of a process with threads
pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


class Numbers(IterableDataset):
    """Its examples carry a draw; several processes share them out."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        worker = get_worker_info()
        for number in range(worker.id if worker else 0, self.count, worker.num_workers if worker else 1):
            yield torch.tensor([float(number), random.random()]), number % 3


def opened(source, **options):
    with named_objects({"d": (source, source)}):
        return open_data("in-memory:d", **options)


def numbers(batches):
    return torch.cat([inputs[:, 0] for inputs, _ in batches]).int().tolist()


def test_a_stream_is_divided_counted_and_shuffled():
    data = opened(Numbers(50))
    assert [data.known_size(split) for split in ("train", "val", "test")] == [None] * 3
    assert [data.size(split) for split in ("train", "val", "test")] == [45, 5, 50]
    assert numbers(data.batches("val", batch_size=2)) == [9, 19, 29, 39, 49]
    assert data.size("train", at_most=7) == 7
    batches = data.batches("train", batch_size=8, shuffle=True, seed=1)
    order = numbers(batches)
    assert sorted(order) == [n for n in range(50) if n % 10 != 9] and order != sorted(order)
    assert numbers(batches) == order and numbers(batches.at_epoch(1)) != order
    assert numbers(data.batches("train", batch_size=4, limit=6)) == list(range(6))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_where_they_are_read(workers):
    batches = opened(Numbers(40), workers=workers).batches("test", batch_size=7, shuffle=True, seed=2).at_epoch(3)
    reference = list(opened(Numbers(40)).batches("test", batch_size=7, shuffle=True, seed=2).at_epoch(3).numbered())
    random.seed(5)
    found = list(batches.numbered())
    assert random.random() == random.Random(5).random()
    for (indices, inputs, targets), (other, other_inputs, other_targets) in zip(found, reference, strict=True):
        assert torch.equal(indices, other) and torch.equal(inputs, other_inputs) and torch.equal(targets, other_targets)
        assert indices.tolist() == inputs[:, 0].int().tolist()
    for (_, inputs, _), (_, other, _) in zip(batches.numbered(3), reference[3:], strict=True):
        assert torch.equal(inputs, other)


@pytest.mark.integration
def test_the_processes_of_a_loader_share_a_stream_out():
    data = opened(DataLoader(Numbers(40), batch_size=5, num_workers=2))
    first = numbers(data.batches("test", batch_size=8))
    assert sorted(first) == list(range(40)) and first[:5] == [0, 2, 4, 6, 8]
    assert numbers(data.batches("test", batch_size=8)) == first


def test_only_a_window_of_a_stream_is_held(monkeypatch):
    monkeypatch.setattr(stream, "WINDOW", 10)
    held = []

    def read():
        for number in range(100):
            held.append(number)
            yield number

    found = stream.shuffled(read(), torch.Generator().manual_seed(0))
    taken = []
    for number in range(80):
        taken.append(next(found))
        assert len(held) == number + 11
    assert sorted([*taken, *found]) == list(range(100))


def test_calibration_takes_what_it_needs_and_no_more():
    read = []

    class Endless(IterableDataset):
        def __iter__(self):
            number = 0
            while True:
                read.append(number)
                yield torch.tensor([float(number)]), 0
                number += 1

    data = opened(Endless())
    read.clear()
    batches = data.calibration(10, batch_size=4)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len(read) < 1300  # the window, and what val leaves out
    assert torch.equal(torch.cat(batches), torch.cat(data.calibration(10, batch_size=4)))


def test_a_failing_stream_is_named_in_any_process():
    class Broken(IterableDataset):
        def __iter__(self):
            yield from ((torch.zeros(2), 0) for _ in range(9))
            raise ValueError("shard 3 is damaged\nsecond line")

    for workers in (0, 1):
        with pytest.raises(
            InputError, match="^data 'in-memory:d', test raised ValueError.*shard 3 is damaged"
        ) as raised:
            list(opened(Broken(), workers=workers).batches("test", batch_size=2))
        assert "\n" not in str(raised.value)
