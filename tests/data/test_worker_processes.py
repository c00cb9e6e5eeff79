"""Batches made ahead by other processes: the same ones, under the same seed, with the same error lines."""

from __future__ import annotations

import os
import random
import signal
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, get_worker_info

from compresskit.core.errors import InputError
from compresskit.core.types import Preprocessing
from compresskit.core.user_code.in_memory import named_objects
from compresskit.data.augmentation import transforms
from compresskit.data.dataset import Data, open_data
from compresskit.data.splits.base import Splits
from compresskit.data.splits.files import FileSplit
from compresskit.data.worker_processes import Workers, in_order

# Python 3.12 warns of every fork of a process with threads
pytestmark = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


class Noisy(Dataset):
    """Draws from each global generator."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()).item(), np.random.rand(), random.random()]), index % 2


class Processes(Dataset):
    """Says which process reads each example, and what worker_init_fn left."""

    opened_by = -1

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.tensor([os.getpid(), self.opened_by]), index % 2


class Damaged(Noisy):
    def __getitem__(self, index):
        if index == 30:
            raise ValueError("record 30 is damaged\nsecond line")
        return super().__getitem__(index)


class Dying(Noisy):
    def __getitem__(self, index):
        if index == 30 and get_worker_info() is not None:
            os._exit(9)
        return super().__getitem__(index)


def opened(source, **options) -> Data:
    with named_objects({"d": (source, (torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)))}):
        return open_data("in-memory:d", **options)


def assert_equal_batches(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for (inputs, targets), (other, other_targets) in zip(first, second, strict=True):
        assert torch.equal(inputs, other)
        assert torch.equal(targets, other_targets)


@pytest.fixture
def files(tmp_path) -> FileSplit:
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    pixels = np.random.default_rng(0).integers(0, 256, (20, 9, 11, 3), dtype=np.uint8)
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return FileSplit(paths, torch.arange(20), (6, 6), 3)


@pytest.mark.integration
@pytest.mark.parametrize("workers", [1, 3])
def test_files_give_the_same_augmented_batches_in_any_number_of_processes(files, workers):
    here, ahead = (Data("files", Splits(files, files, files), Preprocessing(), workers=count) for count in (0, workers))
    options = {"batch_size": 3, "shuffle": True, "seed": 4, "augment": transforms.compose(["crop", "flip"])}
    first, second = (data.batches("train", **options).at_epoch(2) for data in (here, ahead))
    assert second.workers.count == workers
    assert_equal_batches(first, second)
    assert_equal_batches(list(first)[3:], second.starting_at(3))
    assert list(second.starting_at(7)) == []


@pytest.mark.integration
@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_draws_the_same_wherever_it_is_read_and_wherever_reading_starts(workers):
    data = opened(DataLoader(Noisy(), num_workers=2), workers=workers)
    batches = data.batches("train", batch_size=5, shuffle=True, seed=1)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    found = list(batches)
    drawn = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert drawn == (random.random(), np.random.rand(), torch.rand(()).item())
    reference = opened(Noisy()).batches("train", batch_size=5, shuffle=True, seed=1)
    assert_equal_batches(found, reference)
    assert_equal_batches(found[4:], batches.starting_at(4))
    other = list(batches.at_epoch(1))
    assert not torch.equal(torch.cat([x for x, _ in found])[:, 1].sort().values,
                           torch.cat([x for x, _ in other])[:, 1].sort().values)  # fmt: skip
    assert len(torch.cat([x for x, _ in found])[:, 1].unique()) == 36


def test_the_workers_of_a_users_loader_read_its_examples():
    def begin(number):
        get_worker_info().dataset.opened_by = number

    loader = DataLoader(Processes(), num_workers=2, prefetch_factor=3, worker_init_fn=begin)
    batches = opened(loader).batches("train", batch_size=4)
    assert (batches.workers.count, batches.workers.prefetch_factor) == (2, 3)
    rows = torch.cat([inputs for inputs, _ in batches])
    in_workers = rows[4:]  # the first batch is read here
    assert rows[:4].tolist() == [[os.getpid(), -1]] * 4
    assert in_workers[:, 1].unique().tolist() == [0, 1]
    assert len(in_workers[:, 0].unique()) == 2
    assert os.getpid() not in in_workers[:, 0]
    alone = opened(loader, workers=0).batches("train", batch_size=4)
    assert {int(pid) for inputs, _ in alone for pid in inputs[:, 0]} == {os.getpid()}


def test_a_look_at_one_batch_starts_no_process(monkeypatch):
    monkeypatch.setattr("compresskit.data.worker_processes.DataLoader", None)
    batches = opened(DataLoader(Noisy(), num_workers=2)).batches("train", batch_size=4)
    assert len(next(iter(batches))[0]) == 4
    assert len(list(batches.starting_at(8))) == 1


def test_an_error_in_a_worker_is_the_same_line_as_without():
    lines = []
    for workers in (0, 2):
        with pytest.raises(InputError, match="raised ValueError while examples were read: record 30 is dam") as raised:
            list(opened(Damaged(), workers=workers).batches("train", batch_size=4))
        lines.append(str(raised.value))
    assert lines[0] == lines[1]
    assert "\n" not in lines[0]


def test_a_worker_init_fn_that_raises_is_named():
    def begin(number):
        raise OSError("no such mount")

    loader = DataLoader(Noisy(), num_workers=1, worker_init_fn=begin)
    with pytest.raises(InputError, match="worker_init_fn raised OSError: no such mount"):
        list(opened(loader).batches("train", batch_size=4))


def test_a_worker_that_dies_is_named_with_the_way_out():
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(InputError, match=r"worker processes .* failed .* with workers 0 the data is read in the main"):
        list(opened(DataLoader(Dying(), num_workers=2, timeout=2)).batches("train", batch_size=4))
    assert signal.getsignal(signal.SIGCHLD) == before


def test_a_bug_in_a_worker_stays_a_bug():
    with pytest.raises(RuntimeError, match="in DataLoader worker process"):
        list(in_order(partial(divmod_or_fail, 6), range(4), Workers(1)))


def divmod_or_fail(limit: int, number: int) -> int:
    if number == 2:
        raise RuntimeError("a bug")
    return limit // (number + 1)


def test_worker_numbers_that_exceed_the_batches_start_no_idle_process():
    assert list(in_order(partial(divmod_or_fail, 12), range(2), Workers(64))) == [12, 6]
    assert list(in_order(partial(divmod_or_fail, 12), range(0), Workers(64))) == []
