"""Augmentations of torchvision: what each changes of an image, and what it leaves."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.augmentation import image_operations


@pytest.fixture(autouse=True)
def _torchvision():
    pytest.importorskip("torchvision")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_erasing_leaves_half_of_the_images_and_a_rectangle_of_zeros_in_the_others():
    images = torch.full((64, 3, 16, 16), 0.6)
    found = image_operations.erase(images, generator())
    areas = [int((image[0] == 0).sum()) for image in found]
    assert 20 < sum(area == 0 for area in areas) < 44
    for image, area in zip(found, areas, strict=True):
        rows, columns = (image[0] == 0).any(1), (image[0] == 0).any(0)
        assert int(rows.sum()) * int(columns.sum()) == area <= 0.34 * 256
        assert torch.allclose(image[image > 0], torch.tensor(0.6))


def test_colours_of_a_flat_image_stay_flat_and_change_by_at_most_their_factors():
    found = image_operations.color_jitter(torch.full((32, 3, 8, 8), 0.5), generator())
    assert all(image.std() < 1e-6 for image in found)
    levels = found[:, 0, 0, 0]
    assert levels.min() >= 0.29 and levels.max() <= 0.71 and len(levels.unique()) > 8


def test_each_image_gets_an_operation_of_its_own():
    image = torch.rand(1, 1, 16, 16, generator=generator(3)).expand(32, -1, -1, -1)
    found = image_operations.trivial_augment(image, generator())
    assert len({one.numpy().tobytes() for one in found}) > 8


def test_what_is_no_image_is_refused():
    with pytest.raises(InputError, match=r"augment works on images, and a batch of this data has shape \[2, 5\]"):
        image_operations.rand_augment(torch.zeros(2, 5), generator())
