"""Data of a session: tensors, data sets, loaders and iterables all give the same examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler
from torch.utils.data.sampler import BatchSampler, SequentialSampler, SubsetRandomSampler

from compresskit.core.errors import InputError
from compresskit.core.user_code.in_memory import named_objects
from compresskit.data.collate import pair_of
from compresskit.data.dataset import open_data
from compresskit.data.loaders import splits_of
from compresskit.data.splits.examples import HeldSplit

X = torch.arange(50 * 6, dtype=torch.float32).reshape(50, 6)
Y = torch.arange(50) % 10


class Pairs(Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        return {"features": X[index], "label": int(Y[index])}


class Stream(IterableDataset):
    def __iter__(self):
        return zip(X, Y, strict=True)


def batches():
    return ((X[start : start + 8], Y[start : start + 8]) for start in range(0, 50, 8))


SOURCES = {
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "tensors": lambda: (X, Y),
    "tensor data set": lambda: TensorDataset(X, Y),
    "data set": Pairs,
    "subset": lambda: Subset(Pairs(), range(50)),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=7),
    "shuffled loader": lambda: DataLoader(Pairs(), batch_size=7, shuffle=True),
    "chosen examples": lambda: DataLoader(Pairs(), sampler=SubsetRandomSampler(range(50))),
    "stream": Stream,
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=8),
    "own batches": lambda: DataLoader(
        TensorDataset(X, Y), batch_sampler=BatchSampler(SequentialSampler(X), 9, drop_last=False)
    ),
    "iterator": batches,
    "list": lambda: list(batches()),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_examples(name):
    with named_objects({"d": (SOURCES[name](), (X[:4], Y[:4]))}):
        data = open_data("in-memory:d")
    assert [data.size(split) for split in ("train", "val", "test")] == [45, 5, 4]
    found = [pair for split in ("train", "val") for pair in data.batches(split, batch_size=20)]
    inputs, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = inputs[:, 0].argsort()
    assert torch.equal(inputs[order], X) and torch.equal(targets[order], Y)
    assert data.example.shape == (1, 6)


def test_one_source_is_divided_and_named_parts_are_taken():
    splits = splits_of((X, Y), "d")
    assert (len(splits.train), len(splits.test), splits.num_classes) == (40, 10, 10)
    assert "10 examples were held out" in splits.note
    splits = splits_of({"train": (X, Y), "val": (X[:5], Y[:5])}, "d")
    assert (len(splits.train), len(splits.test), splits.val) == (50, 5, None)
    splits = splits_of(((X, Y), (X[:6], Y[:6]), (X[:3], Y[:3])), "d")
    assert (len(splits.val), len(splits.test)) == (6, 3)


def test_what_a_loader_draws_counts_where_it_does_not_draw_each_once():
    torch.manual_seed(0)
    weighted = DataLoader(TensorDataset(X, Y), batch_size=5, sampler=WeightedRandomSampler([1.0] * 25 + [0.0] * 25, 15))
    split = splits_of((weighted, (X, Y)), "d").train
    assert len(split) == 15 and bool((split.take(torch.arange(15))[0][:, 0] < 25 * 6).all())


def test_inputs_of_several_tensors_and_of_several_lengths():
    batch = {"ids": torch.ones(2, 3, dtype=torch.long), "mask": torch.ones(2, 3), "labels": torch.tensor([0, 1])}
    inputs, targets = pair_of(batch, "d")
    assert inputs.keys() == {"ids", "mask"} and targets.tolist() == [0, 1]
    inputs, _ = pair_of((X, X, Y), "d")
    assert isinstance(inputs, tuple) and len(inputs) == 2
    split = splits_of([batch, {**batch, "labels": torch.tensor([2, 3])}], "d").train
    assert isinstance(split, HeldSplit)
    inputs, targets = split.take(torch.tensor([0, 2]))
    assert inputs["ids"].shape == (2, 3) and targets.shape == (2,)


def test_values_are_taken_as_they_are():
    images = torch.full((20, 3, 2, 2), 200, dtype=torch.uint8)
    with named_objects({"d": ((images, Y[:20]), (images, Y[:20])), "e": ((X.double(), X[:, 0]), (X, X[:, 0]))}):
        inputs, _ = next(iter(open_data("in-memory:d").batches("test", batch_size=20)))
        assert torch.equal(inputs, images)
        inputs, targets = next(iter(open_data("in-memory:e").batches("train", batch_size=4)))
        assert inputs.dtype == torch.float32 and targets.dtype == torch.float32  # regression stays regression


def test_a_factory_may_return_loaders_and_be_a_function_of_the_session(tmp_path, monkeypatch):
    (tmp_path / "data.py").write_text(
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        "def make(n=20):\n    d = TensorDataset(torch.ones(n, 3), torch.ones(n).long())\n"
        "    return DataLoader(d, batch_size=3), d\n"
    )
    data = open_data(f"{tmp_path}/data.py:make", args={"n": 30})
    assert (data.size("train"), data.size("test")) == (27, 30)
    with named_objects({"f": lambda n: ((X[:n], Y[:n]), (X, Y))}):
        assert open_data("in-memory:f", args={"n": 20}).size("train") == 18
    with named_objects({"d": (X, Y)}), pytest.raises(InputError, match="leave data_arg .rows. out"):
        open_data("in-memory:d", args={"rows": 3})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "is of type int; give a data string, a DataLoader"),
        ((X,), "a tuple is .inputs, targets., .train, test. or .train, val, test., not 1 parts"),
        (["x", "y"], "a batch must be .inputs, targets., got str"),
        (iter(()), "gives no batches; an iterator that was read before is empty"),
        ([(X, "a text")], "targets of a batch are of type str"),
        ([(X, torch.tensor(1.0))], "targets of a batch are a single number"),
        ([{"labels": Y}], "a batch holds labels and no inputs"),
        ((X, Y[:3]), "50 inputs but 3 targets"),
        ((X * np.nan, Y), "NaN"),
        ({"test": (X, Y)}, "there is no train among test"),
        (TensorDataset(X[:0], Y[:0]), "too few|empty"),
        ((value for value in [1 / 0 for _ in []] + [0]), "a batch must be"),
    ],
)
def test_what_is_no_data_is_refused_on_one_line(source, message):
    with pytest.raises(InputError, match=message) as refusal:
        splits_of(source, "'d'")
    assert len(str(refusal.value).splitlines()) == 1


def test_code_that_raises_is_blamed():
    class Broken(Pairs):
        def __getitem__(self, index):
            raise OSError("disk gone")

    with pytest.raises(InputError, match="data 'd' raised OSError while (it was|examples were) read: disk gone"):
        splits_of(Broken(), "'d'")


def test_an_endless_iterable_ends(monkeypatch):
    monkeypatch.setattr("compresskit.data.splits.examples.LARGEST_HELD_BYTES", 10_000)
    with pytest.raises(InputError, match="give a Dataset, whose examples are read when needed"):
        splits_of(((X, Y) for _ in iter(int, 1)), "'d'")


class Alone(Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        return X[index]


@pytest.mark.parametrize(
    "source",
    [
        X,
        X.numpy(),
        TensorDataset(X),
        Alone(),
        DataLoader(Alone(), batch_size=7),
        DataLoader(TensorDataset(X), batch_size=7),
        [X[:20], X[20:30], X[30:]],
        [(X[:30], None), (X[30:], None)],
    ],
    ids=lambda source: type(source).__name__,
)
def test_inputs_alone_are_data_without_targets(source):
    with named_objects({"alone": source}):
        data = open_data("in-memory:alone")
    seen = []
    for split in ("train", "val", "test"):
        for inputs, targets in data.batches(split, batch_size=8):
            assert targets is None
            seen.append(inputs)
    rows = torch.cat(seen)
    assert torch.equal(rows[rows[:, 0].argsort()], X)
    assert data.num_classes is None


def test_a_factory_s_inputs_alone_are_splits_by_name(tmp_path):
    (tmp_path / "d.py").write_text(
        "import torch\ndef two():\n    return torch.rand(20, 3), torch.rand(8, 3)\n"
        "def named():\n    return {'train': torch.rand(20, 3), 'test': torch.rand(8, 3)}\n"
    )
    with pytest.raises(InputError, match="returned 2 arrays, which may be splits or inputs and targets"):
        open_data(f"{tmp_path}/d.py:two")
    data = open_data(f"{tmp_path}/d.py:named")
    assert (data.size("test"), next(iter(data.batches("test", batch_size=8)))[1]) == (8, None)
