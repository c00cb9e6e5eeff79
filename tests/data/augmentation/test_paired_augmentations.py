"""Augmentations of images whose targets lie on their pixels: both move together."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.augmentation import transforms
from compresskit.data.dataset import open_data


@pytest.fixture(autouse=True)
def _torchvision():
    pytest.importorskip("torchvision")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["flip", "crop", "resizedcrop"])
def test_boxes_and_masks_stay_on_their_objects(name):
    """Each object is a bright rectangle, so that its box is known again in the changed image."""
    images, targets = [], []
    for number in range(12):
        image, top, left = torch.zeros(3, 32, 48), 4 + number, 5 + number
        image[:, top : top + 10, left : left + 12] = 1
        mask = image[:1] > 0
        box = torch.tensor([[left, top, left + 12, top + 10]]).float()
        images.append(image)
        targets.append({"boxes": box, "labels": torch.tensor([3]), "masks": mask})
    (changed,), found = transforms.compose([name]).with_targets((images,), targets, generator())
    moved = 0
    for image, target, before in zip(changed, found, targets, strict=True):
        bright = image[0] > 0.5
        moved += not torch.equal(target["boxes"], before["boxes"])
        rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
        seen = torch.tensor([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]).float()
        assert float((target["boxes"][0] - seen).abs().max()) <= 1
        assert float((target["masks"][0] != bright).float().mean()) < 0.02
    assert moved >= 4


@pytest.mark.parametrize("name", ["flip", "crop", "resizedcrop"])
def test_maps_stay_on_their_pixels_and_the_outside_is_ignored(name):
    data = open_data("digits-segmentation", args={"train": 40, "test": 4})
    plain, maps = next(iter(data.batches("train", batch_size=36)))
    images, found = next(iter(data.batches("train", batch_size=36, augment=transforms.compose([name]))))
    assert images.shape == plain.shape and found.shape == maps.shape and found.dtype == torch.int64
    assert not torch.equal(found, maps) and set(found.unique().tolist()) <= {-100, *range(11)}
    assert (name == "crop") == bool((found == -100).any())
    inside = found != -100
    grey = images.mean(1)
    assert float(grey[inside & (found > 0)].mean()) > 0.4 > 0.2 > float(grey[inside & (found == 0)].mean())


def test_objects_that_a_crop_leaves_are_gone():
    image = torch.zeros(1, 32, 32)
    target = {"boxes": torch.tensor([[0.0, 0, 1, 32], [8, 8, 24, 24]]), "labels": torch.tensor([1, 2]), "id": 7}
    counts = set()
    for seed in range(12):
        _, (found,) = transforms.compose(["crop"]).with_targets(([image],), [target], generator(seed))
        assert len(found["boxes"]) == len(found["labels"]) and 2 in found["labels"] and found["id"] == 7
        counts.add(len(found["boxes"]))
    assert counts == {1, 2}


def test_the_same_draws_give_the_same_and_colours_leave_targets_alone():
    images, maps = torch.rand(4, 3, 16, 16), torch.randint(0, 3, (4, 16, 16))
    first, again = (transforms.compose(["crop", "flip"]).with_targets(images, maps, generator(3)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    changed, found = transforms.compose(["colorjitter"]).with_targets(images, maps, generator())
    assert found is maps and not torch.equal(changed, images)


def test_what_would_leave_targets_behind_is_refused(tmp_path):
    images, maps = torch.rand(2, 3, 16, 16), torch.zeros(2, 16, 16, dtype=torch.long)
    with pytest.raises(InputError, match="augment 'randaugment' may move pixels and would leave boxes, masks or maps"):
        transforms.compose(["randaugment"]).with_targets(images, maps, generator())
    (tmp_path / "mine.py").write_text(
        "def moves(x, generator):\n    return x\n\ndef stays(x, generator):\n    return x / 2\n\nstays.moves = False\n"
    )
    with pytest.raises(InputError, match="mine.py:moves' may move pixels"):
        transforms.compose([f"{tmp_path}/mine.py:moves"]).with_targets(images, maps, generator())
    changed, _ = transforms.compose([f"{tmp_path}/mine.py:stays"]).with_targets(images, maps, generator())
    assert torch.equal(changed, images / 2)
    classes = torch.tensor([0, 1])  # nothing lies on the pixels
    assert transforms.compose(["randaugment"]).with_targets(images, classes, generator())[1] is classes


@pytest.mark.parametrize("name", ["crop", "resizedcrop"])
def test_keypoints_stay_on_their_corners_and_are_unlabelled_outside(name):
    image = torch.zeros(3, 32, 48)
    image[:, 10:20, 15:30] = 1
    boxes, points = torch.tensor([[15.0, 10, 30, 20]]), torch.tensor([[[15.0, 10, 2], [30, 20, 1], [0, 31, 2]]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1]), "keypoints": points} for _ in range(12)]
    (_,), found = transforms.compose([name]).with_targets(([image.clone() for _ in range(12)],), targets, generator())
    kinds = set()
    for target in found:
        box, moved = target["boxes"][0], target["keypoints"][0]
        if bool((moved[:2, 2] > 0).all()):  # the object is whole
            torch.testing.assert_close(moved[:2, :2].flatten(), box, atol=1e-3, rtol=0)
        outside = bool((moved[2, :2] < 0).any()) or float(moved[2, 1]) >= 32
        kinds.add(outside)
        assert float(moved[2, 2]) == (0 if outside else 2)
    assert True in kinds
    with pytest.raises(InputError, match="augment 'flip' would exchange the keypoints of left and right"):
        transforms.compose(["flip"]).with_targets(([image],), targets[:1], generator())
