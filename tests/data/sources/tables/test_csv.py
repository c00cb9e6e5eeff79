"""Columns of CSV files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data


def test_csv_regression_and_classes(tmp_path):
    rows = "\n".join(f"{i},{i * 2},{i * 0.5 + 0.25}" for i in range(40))
    (tmp_path / "r.csv").write_text(f"a,b,y\n{rows}\n")
    data = open_data(f"csv:{tmp_path / 'r.csv'}")
    assert data.num_classes is None
    assert data.input_shape == (2,)
    (tmp_path / "c.csv").write_text("label,a\n" + "\n".join(f"{i % 3},{i}" for i in range(40)) + "\n")
    assert open_data(f"csv:{tmp_path / 'c.csv'}").num_classes == 3


def test_whole_numbers_written_as_floats_are_no_classes(tmp_path):
    (tmp_path / "count.csv").write_text("a,y\n" + "\n".join(f"{i},{i % 4}.0" for i in range(40)) + "\n")
    data = open_data(f"csv:{tmp_path / 'count.csv'}")
    assert data.num_classes is None
    assert next(iter(data.batches("test", batch_size=4)))[1].is_floating_point()


def batch(data, split="test"):
    return next(iter(data.batches(split, batch_size=100)))


def test_categories_are_one_hot_and_texts_are_classes(tmp_path):
    rows = "\n".join(f"{i},{('red', 'green', 'blue')[i % 3]},{('no', 'yes')[i % 2]}" for i in range(40))
    (tmp_path / "d.csv").write_text(f"size,colour,bought\n{rows}\n")
    data = open_data(f"csv:{tmp_path}/d.csv")
    inputs, targets = batch(data)
    assert data.classes == ("no", "yes") and data.num_classes == 2 and "one-hot: colour" in data.note
    for (size, *colour), target in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert colour == [
            float(("blue", "green", "red")[n] == ("red", "green", "blue")[int(size) % 3]) for n in range(3)
        ]
        assert target == int(size) % 2


def test_several_targets_and_chosen_inputs(tmp_path):
    (tmp_path / "d.csv").write_text("a,b,c,d\n" + "\n".join(f"{i},{2 * i},{3 * i},{4 * i}" for i in range(40)) + "\n")
    data = open_data(f"csv:{tmp_path}/d.csv", args={"target": "c,a", "inputs": "b"})
    inputs, targets = batch(data)
    assert inputs.shape == (8,) or inputs.shape == (8, 1)
    assert torch.equal(targets, torch.stack([inputs.flatten() * 1.5, inputs.flatten() / 2], 1))
    assert data.num_classes is None and targets.is_floating_point()


def test_paths_of_images_are_read(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    (tmp_path / "p").mkdir()
    for number in range(20):
        image_module.fromarray(np.full((4, 5, 3), number, np.uint8)).save(tmp_path / "p" / f"{number}.png")
    (tmp_path / "d.csv").write_text("file,label\n" + "\n".join(f"p/{i}.png,{i % 3}" for i in range(20)) + "\n")
    data = open_data(f"csv:{tmp_path}/d.csv", args={"size": "4x5"})
    inputs, targets = batch(data)
    assert inputs.shape == (4, 3, 4, 5) and data.num_classes == 3
    assert ((inputs[:, 0, 0, 0] * 255).round().long() % 3).tolist() == targets.tolist()
    (tmp_path / "p" / "3.png").unlink()
    with pytest.raises(InputError, match="line 5: image '.*3.png' does not exist"):
        open_data(f"csv:{tmp_path}/d.csv")


@pytest.mark.parametrize(
    ("text", "args", "message"),
    [
        ("a,b\n1,2\n", {}, "needs a header and at least two rows"),
        ("a\n1\n2\n", {}, "needs at least two columns"),
        ("a,a\n1,2\n3,4\n", {}, "column 'a' is there twice"),
        ("a,b\n1,2\n3\n", {}, "line 3: every row needs 2 numbers or texts, this one has 1"),
        ("a,b\n1,2\nx,4\n5,6\n", {}, "line 3: every row needs a number in column 'a', as others have, got 'x'"),
        ("a,b\nx,1\ny,2\nz,3\n", {}, "column 'a' has 3 different texts in 3 rows, which is no category"),
        ("a,bb\n1,2\n3,4\n", {"target": "b"}, "has no column 'b'.*did you mean 'bb'"),
        ("a,b\n1,2\n3,4\n", {"target": 3}, "target names columns, as a,b, got 3"),
        (
            "a,b,c\n1,2,x\n3,4,y\n",
            {"target": "b,c"},
            "line 2: column 'c' holds 'x'; several target columns are numbers",
        ),
        ("a,b\n1,nan\n3,4.5\n", {}, "NaN or infinite"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, args, message):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_data(f"csv:{tmp_path}/d.csv", args=args)
