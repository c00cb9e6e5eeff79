"""Rows of tables as examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.core.types import Preprocessing
from compresskit.data.sources.tables.rows import Choice, split_of
from compresskit.data.sources.tables.table import Table


def table(**columns):
    cells = zip(*columns.values(), strict=True)
    rows = [(number, dict(zip(columns, row, strict=True))) for number, row in enumerate(cells, 2)]
    return Table("data file 'd'", Path(), list(columns), rows)


def everything(splits):
    parts = [split.take(torch.arange(len(split))) for split in (splits.train, splits.test)]
    return torch.cat([inputs for inputs, _ in parts]), torch.cat([targets for _, targets in parts])


def test_the_target_is_label_then_target_then_the_last():
    numbers = [n + 0.5 for n in range(12)]
    for names, expected in ((("a", "label", "target"), "label"), (("a", "target", "c"), "target"), (("a", "b"), "b")):
        columns = {name: [100 * place + n for n in numbers] for place, name in enumerate(names)}
        _, targets = everything(split_of(table(**columns), Preprocessing()))
        assert sorted(targets.tolist()) == columns[expected]


def test_whole_numbers_below_zero_are_no_classes():
    splits = split_of(table(a=range(12), label=[0, -1, 2] * 4), Preprocessing())
    assert splits.num_classes is None and everything(splits)[1].is_floating_point()
    assert split_of(table(a=range(12), label=[0, 1, 2] * 4), Preprocessing()).num_classes == 3


def test_a_table_of_targets_alone_is_refused():
    with pytest.raises(InputError, match="needs at least two columns"):
        split_of(table(a=[1, 2, 3], b=[1, 2, 3]), Preprocessing(), Choice("a,b"))


def test_rows_go_where_a_column_called_split_says():
    columns = {
        "a": [0.5, 1.5, 2.5, 3.5, 4.5],
        "y": [1, 0, 1, 0, 1],
        "split": ["train", "Train", "valid", "test", "test"],
    }
    splits = split_of(table(**columns), Preprocessing())
    found = {name: getattr(splits, name) for name in ("train", "val", "test")}
    rows = {name: split.take(torch.arange(len(split)))[0].flatten().tolist() for name, split in found.items()}
    assert rows == {"train": [0.5, 1.5], "val": [2.5], "test": [3.5, 4.5]}
    assert splits.num_classes == 2 and "column 'split'" in splits.note
    fold = columns | {"split": ["train", "train", "fold2", "test", "test"]}
    as_category = split_of(table(**fold), Preprocessing(), Choice("y"))
    assert everything(as_category)[0].shape[1] == 4  # a number, and one of three texts
    with pytest.raises(InputError, match="line 4: column 'split' says 'fold2', not train, val or test"):
        split_of(table(**fold), Preprocessing(), Choice("y", split="split"))
    with pytest.raises(InputError, match="needs rows of train, and of test or val"):
        split_of(table(**columns | {"split": ["val"] * 5}), Preprocessing(), Choice(split="split"))


def test_files_of_splits_have_their_categories_in_common():
    train, test = table(kind=["b", "b"], label=["x", "y"]), table(kind=["a", "c"], label=["y", "z"])
    splits = split_of(train, Preprocessing(), others={"test": test, "val": None})
    assert splits.classes == ("x", "y", "z") and splits.val is None and "held out" not in splits.note
    inputs, targets = splits.test.take(torch.arange(2))
    assert inputs.tolist() == [[1, 0, 0], [0, 0, 1]] and targets.tolist() == [1, 2]
    with pytest.raises(InputError, match="has no column 'kind', which data file 'd' has"):
        split_of(train, Preprocessing(), others={"test": table(sort=["a", "b"], label=["x", "y"])})


def test_an_index_that_pandas_wrote_is_no_input():
    index = {"": [0, 3, 1, 2], "a": [0.5, 1.5, 2.5, 3.5], "label": [0, 1, 0, 1]}
    splits = split_of(table(**index), Preprocessing())
    assert everything(splits)[0].shape[1] == 1 and "index of the rows" in splits.note
    assert everything(split_of(table(**index), Preprocessing(), Choice(inputs=",a")))[0].shape[1] == 2
    assert everything(split_of(table(**index | {"": [4, 1, 1, 9]}), Preprocessing()))[0].shape[1] == 2


def test_images_and_numbers_are_inputs_side_by_side(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number in range(4):
        image.fromarray(np.full((2, 3, 3), 10 * number, np.uint8)).save(tmp_path / f"{number}.png")
    columns = {
        "age": [0.5, 1.5, 2.5, 3.5], "file": [f"{n}.png" for n in range(4)], "sex": ["f", "m", "f", "m"],
        "label": [0, 1, 0, 1],
    }  # fmt: skip
    choice = Choice(images=str(tmp_path))
    splits = split_of(table(**columns), Preprocessing(), choice)
    (row, pixels), targets = splits.train.take(torch.arange(len(splits.train)))
    assert pixels.shape == (len(targets), 3, 2, 3) and pixels.dtype == torch.uint8
    assert (pixels[:, 0, 0, 0] / 10 + 0.5).tolist() == row[:, 0].tolist()
    assert row[:, 1:].argmax(1).tolist() == targets.tolist()
    both = {"first": columns["file"], "second": columns["file"][::-1], "label": columns["label"]}
    (one, other), _ = split_of(table(**both), Preprocessing(), choice).test.take(torch.tensor([0]))
    assert float(one.float().mean()) + float(other.float().mean()) == 30
    with pytest.raises(InputError, match="line 2: image 'sub/0.png' does not exist; say where they are"):
        split_of(table(file=["sub/0.png"] * 2, label=[0, 1]), Preprocessing())
