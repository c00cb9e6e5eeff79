"""Images of classes in folders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data


def write_images(root, splits, size=(8, 8)):
    from PIL import Image

    for split, names in splits.items():
        for label, name in enumerate(names):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(12):
                Image.fromarray(np.full((*size, 3), label * 100 + index, np.uint8)).save(folder / f"{index:02}.png")


def test_imagefolder_reads_splits_and_sorted_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "d", {"train": ["dog", "cat"], "test": ["cat", "dog"]})
    data = open_data(f"imagefolder:{tmp_path / 'd'}")
    inputs, targets = next(iter(data.batches("test", batch_size=24)))
    assert data.num_classes == 2
    assert targets.tolist() == [0] * 12 + [1] * 12
    assert inputs[0, 0, 0, 0] == 0  # cat comes first in the test folder's writing order
    assert inputs[13, 0, 0, 0] == pytest.approx(101 / 255)
    assert list((tmp_path / "cache").rglob("*.npy"))
    again, _ = next(iter(open_data(f"imagefolder:{tmp_path / 'd'}").batches("test", batch_size=24)))
    assert torch.equal(again, inputs)


def test_imagefolder_without_splits_holds_out_a_test(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "d", {".": ["a", "b", "c"]})
    data = open_data(f"imagefolder:{tmp_path / 'd'}", args={"size": 4})
    assert data.size("train") + data.size("val") + data.size("test") == 36
    assert data.size("test") == 7
    assert "held out" in data.note
    assert data.input_shape == (3, 4, 4)


def test_a_damaged_image_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "d", {"train": ["a"], "test": ["a"]})
    path = tmp_path / "d" / "test" / "a" / "05.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="05.png"):
        open_data(f"imagefolder:{tmp_path / 'd'}")


def test_bad_files_are_left_out_up_to_max_bad(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_images(tmp_path / "d", {"train": ["a", "b"], "test": ["a", "b"]})
    (tmp_path / "d" / "train" / "b" / "03.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="03.png.*--data-arg max_bad=N"):
        open_data(f"imagefolder:{tmp_path / 'd'}")
    data = open_data(f"imagefolder:{tmp_path / 'd'}", args={"max_bad": 1})
    assert data.size("train") + data.size("val") == 23 and data.classes == ("a", "b")
    assert "1 images are left out" in data.note and "03.png" in data.note
    (tmp_path / "d" / "train" / "a" / "04.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="2 images cannot be read, and max_bad is 1; the first"):
        open_data(f"imagefolder:{tmp_path / 'd'}", args={"max_bad": 1})
    with pytest.raises(InputError, match="max_bad must be a whole number from 0 on, got 'all'"):
        open_data(f"imagefolder:{tmp_path / 'd'}", args={"max_bad": "all"})


def test_folders_of_images_and_masks_are_no_classes(tmp_path):
    write_images(tmp_path / "d", {".": ["images", "masks"]})
    with pytest.raises(
        InputError, match="'images' and 'masks' are no classes; read images and masks with segfolder:DIR"
    ):
        open_data(f"imagefolder:{tmp_path / 'd'}")
