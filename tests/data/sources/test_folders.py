"""What readers of folders share."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.sources.folders import directory, joined_notes, named_splits, resized, shown, split_folders, whole


def test_splits_by_their_usual_names(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "valid").mkdir()
    assert split_folders(tmp_path) == {"train": tmp_path / "training", "val": tmp_path / "valid", "test": None}
    assert named_splits({"train": 1, "val": 2, "test": None}, "d")[:3] == (1, 2, None)
    assert named_splits({"train": 1, "val": 2, "test": 3}, "d") == (1, 3, 2, "")
    with pytest.raises(InputError, match="d has a train folder but neither test nor val"):
        named_splits({"train": 1}, "d")
    with pytest.raises(InputError, match="d has no train split among val"):
        named_splits({"val": 1, "test": None}, "d")
    with pytest.raises(InputError, match="cannot be read|does not exist"):
        directory("a\0b")


def test_images_are_blended():
    image = torch.tensor([[0, 100], [200, 100]], dtype=torch.uint8)[None]
    assert resized(image, (1, 1)).tolist() == [[[100]]]
    assert resized(image, (2, 2)) is image


def test_notes_show_the_first_lines():
    assert shown([], "are left out") == ""
    assert shown(["a", "b", "c", "d", "e"], "are left out") == "5 are left out: a; b; c, and 2 more"
    assert joined_notes("", "a", "b") == "a; b"
    with pytest.raises(InputError, match="n must be a whole number from 1 on, got True"):
        whole(True, "n", "d", 1)
