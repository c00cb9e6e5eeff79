"""YOLO's data.yaml: relative boxes in pixels, labels as torchvision counts them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data

Image = pytest.importorskip("PIL.Image")
YAML = "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"


def written(folder, text=YAML, line="1 0.5 0.25 0.2 0.5"):
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(np.full((20, 40, 3), number, np.uint8)).save(folder / "images" / split / f"{number}.png")
            if number != 1:
                (folder / "labels" / split / f"{number}.txt").write_text(f"{line}\n0 0.1 0.1 0.3 0.1 0.2 0.4\n\n")
    (folder / "data.yaml").write_text(text)
    return f"yolo:{folder}/data.yaml"


def test_boxes_polygons_and_images_without_any(tmp_path):
    data = open_data(written(tmp_path))
    assert data.classes == ("", "cat", "dog") and "test is the val folder" in data.note
    (images,), targets = next(iter(data.batches("test", batch_size=10)))
    assert images[0].shape == (3, 20, 40) and targets[1]["boxes"].shape == (0, 4)
    torch.testing.assert_close(targets[0]["boxes"], torch.tensor([[16.0, 0, 24, 10], [4, 2, 12, 8]]))
    assert targets[0]["labels"].tolist() == [2, 1]


def test_lists_of_files_sizes_and_labels_from_zero(tmp_path):
    string = written(tmp_path, "path: .\ntrain: train.txt\nnames: [cat, dog]\n")
    (tmp_path / "train.txt").write_text("".join(f"./images/train/{number}.png\n" for number in range(20)))
    data = open_data(string, args={"size": 10, "first_label": 0}, collate="stack")
    inputs, targets = next(iter(data.batches("test", batch_size=2)))
    assert inputs.shape == (2, 3, 10, 10) and data.classes == ("cat", "dog")
    torch.testing.assert_close(targets[0]["boxes"][0], torch.tensor([4.0, 0, 6, 5]))
    assert targets[0]["labels"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": "names: [a]\n"}, "needs a key train"),
        ({"text": "a: [b"}, "is no YAML"),
        ({"text": "train: nowhere\nval: images/val\n"}, "nowhere' is neither a folder of images nor a .txt file"),
        ({"line": "1 0.5 0.5"}, "line 1: expected class, x, y, width, height"),
        ({"line": "7 0.5 0.5 0.1 0.1"}, "line 1: class 7 is none of 2 names"),
        ({"line": "1 50 50 10 10"}, "as shares of the image"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        open_data(written(tmp_path, **given))
