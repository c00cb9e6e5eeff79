"""Boxes beside images: cut at the border, dropped without an area, scaled with their image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compresskit.data.sources.images.boxes import Boxed


def test_boxes_are_cut_at_the_border_and_empty_ones_are_dropped(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    image_module.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / "a.png")

    def found(height, width):
        assert (height, width) == (10, 20)
        boxes = torch.tensor([[-4.0, 2, 10, 30], [5, 5, 5, 9], [25, 1, 30, 4]])
        return boxes, torch.tensor([1, 2, 3]), {"masks": torch.ones(3, 10, 20, dtype=torch.bool)}

    image, target = Boxed([tmp_path / "a.png"], [found], (20, 10), 3)[0]
    assert image.shape == (3, 20, 10) and target["labels"].tolist() == [1]
    assert target["boxes"].tolist() == [[0, 4, 5, 20]] and target["masks"].shape == (1, 20, 10)
