"""JSON lines as rows."""

from __future__ import annotations

import json

import pytest

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_lists_numbers_and_categories_are_one_row_of_floats(tmp_path):
    write(tmp_path / "d.jsonl", [{"x": [i, i + 1], "kind": "ab"[i % 2], "label": i % 3} for i in range(30)])
    data = open_data(f"jsonl:{tmp_path}/d.jsonl")
    inputs, targets = next(iter(data.batches("test", batch_size=6)))
    assert inputs.shape == (6, 4) and data.num_classes == 3
    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        number = int(row[0])
        assert row == [number, number + 1, 1 - number % 2, number % 2] and target == number % 3


def test_a_lone_list_keeps_its_shape_and_targets_may_be_lists(tmp_path):
    write(tmp_path / "d.jsonl", [{"x": [[i, 1], [2, 3]], "y": [i, 0.5]} for i in range(30)])
    data = open_data(f"jsonl:{tmp_path}/d.jsonl", args={"target": "y"})
    inputs, targets = next(iter(data.batches("test", batch_size=6)))
    assert inputs.shape == (6, 2, 2) and targets.shape == (6, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n', "line 2: no JSON"),
        ('{"a": 1, "b": 2}\n{"a": 1}\n', "line 2: expected an object with the keys a, b"),
        ("[1]\n[2]\n", "line 1: expected an object"),
        ('{"a": 1, "b": 2}\n', "at least two lines"),
        ('{"a": [1], "b": 2}\n{"a": [1, 2], "b": 2}\n', "lists in column 'a' need one length"),
        ('{"a": 1, "b": null}\n{"a": 1, "b": 2}\n', "line 1: column 'b' holds None"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    (tmp_path / "d.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        open_data(f"jsonl:{tmp_path}/d.jsonl")
