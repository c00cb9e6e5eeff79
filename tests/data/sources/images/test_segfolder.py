"""Folders of images and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data

Image = pytest.importorskip("PIL.Image")


def write(folder, count=20, size=(6, 8), values=(0, 1, 2), masks="masks", mask_size=None):
    (folder / "images").mkdir(parents=True)
    (folder / masks).mkdir()
    for number in range(count):
        Image.fromarray(np.full((*size, 3), number, np.uint8)).save(folder / "images" / f"{number}.png")
        mask = np.zeros(mask_size or size, np.uint8)
        mask[:2, :3] = values[number % len(values)]
        Image.fromarray(mask).save(folder / masks / f"{number}.png")


def test_masks_are_classes_of_pixels_and_255_is_left_out(tmp_path):
    write(tmp_path / "d", values=(1, 2, 255))
    data = open_data(f"segfolder:{tmp_path}/d", args={"classes": 3})
    pairs = [pair for split in ("train", "val", "test") for pair in data.batches(split, batch_size=1)]
    assert len(pairs) == 20 and data.num_classes == 3
    for inputs, targets in pairs:
        number = round(float(inputs[0, 0, 0, 0]) * 255)
        assert inputs.shape == (1, 3, 6, 8) and targets.shape == (1, 6, 8)
        assert targets[0, 0, 0] == (1, 2, -100)[number % 3] and targets[0, 5, 7] == 0


def test_masks_of_zeros_and_255s_have_two_classes(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split, values=(255,), masks="mask")
    data = open_data(f"segfolder:{tmp_path}", args={"size": 3})
    inputs, targets = next(iter(data.batches("test", batch_size=10)))
    assert data.num_classes == 2 and inputs.shape == (10, 3, 3, 3) and targets.unique().tolist() == [0, 1]


def test_splits_may_be_below_images_and_masks(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / split)
        for kind in ("images", "masks"):
            (tmp_path / "d" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / split / kind).rename(tmp_path / "d" / kind / split)
    data = open_data(f"segfolder:{tmp_path}/d")
    assert (data.size("train"), data.size("test")) == (18, 20) and "test is the val folder" in data.note


@pytest.mark.parametrize(
    ("change", "args", "message"),
    [
        (lambda d: (d / "masks" / "3.png").unlink(), {}, "3.png' has no mask"),
        (lambda d: (d / "images" / "3.png").write_bytes(b"x"), {}, "3.png' cannot be read"),
        (lambda d: (d / "masks").rename(d / "other"), {}, "holds no folders images and masks"),
        (lambda d: None, {"classes": 2}, "holds a class 2, and classes is 2"),
        (lambda d: None, {"max_bad": -1}, "max_bad must be a whole number from 0 on, got -1"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, args, message):
    write(tmp_path / "d")
    change(tmp_path / "d")
    with pytest.raises(InputError, match=message):
        data = open_data(f"segfolder:{tmp_path}/d", args=args)
        list(data.batches("train", batch_size=9)), list(data.batches("test", batch_size=9))


def test_a_mask_of_another_size_and_one_of_colours_are_refused(tmp_path):
    write(tmp_path / "d", mask_size=(5, 5))
    with pytest.raises(InputError, match="give both one size"):
        open_data(f"segfolder:{tmp_path}/d")
    write(tmp_path / "e")
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tmp_path / "e" / "masks" / "0.png")
    with pytest.raises(InputError, match="a map of classes is grey"):
        open_data(f"segfolder:{tmp_path}/e")


def test_bad_images_are_left_out_and_named(tmp_path):
    write(tmp_path / "d")
    (tmp_path / "d" / "images" / "4.png").write_bytes(b"\x89PNG")
    data = open_data(f"segfolder:{tmp_path}/d", args={"max_bad": 1})
    assert data.size("train") + data.size("val") + data.size("test") == 19
    assert "1 images are left out: image" in data.note and "4.png" in data.note
    assert torch.is_tensor(data.example)
