"""Scenes of digits: boxes fit the ink, maps fit the boxes, both are the same in every run."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.core.types import Preprocessing
from compresskit.data.dataset import open_data

FEW = {"train": 20, "test": 8}


def batch(name, collate="auto", split="test", **args):
    return next(iter(open_data(name, args={**FEW, **args}, collate=collate).batches(split, batch_size=8)))


def test_boxes_hold_the_ink_of_their_digits_and_overlap_none():
    (images,), targets = batch("digits-detection", masks=True)
    assert [image.shape for image in images] == [(3, 64, 64)] * 8
    assert {int(label) for target in targets for label in target["labels"]} <= set(range(1, 11))
    for image, target in zip(images, targets, strict=True):
        assert float(image.min()) >= 0 and 0.5 < float(image.max()) <= 1
        covered = torch.zeros(64, 64, dtype=torch.int)
        for box, mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
            x0, y0, x1, y1 = box
            assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0
            assert mask[y0].any() and mask[y1 - 1].any() and mask[:, x0].any() and mask[:, x1 - 1].any()
            covered[y0:y1, x0:x1] += 1
        assert int(covered.max()) == 1
        assert float(image[0][covered == 0].max()) < 0.3  # noise, and the faint rim of digits
    assert "masks" not in batch("digits-detection")[1][0]


def test_maps_and_boxes_are_of_the_same_scenes():
    (images,), targets = batch("digits-detection", masks=True)
    stacked, maps = batch("digits-segmentation")
    assert torch.equal(stacked, torch.stack(images)) and maps.shape == (8, 64, 64)
    for target, found in zip(targets, maps, strict=True):
        for label, mask in zip(target["labels"], target["masks"], strict=True):
            assert bool((found[mask] == label).all())
        assert int((found > 0).sum()) == int(target["masks"].sum())


def test_scenes_repeat_and_splits_differ():
    first, again = (batch("digits-segmentation", split="train")[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, batch("digits-segmentation")[0])


def test_size_channels_and_form_are_asked_for():
    images, targets = batch("digits-detection", collate="stack", size="48x80", channels=1)
    assert images.shape == (8, 1, 48, 80)
    assert all(float(target["boxes"][:, 2].max()) <= 80 for target in targets)
    data = open_data("digits-segmentation", Preprocessing((0.5,), (0.5,), (32, 32), 1), FEW)
    assert data.input_shape == (1, 32, 32) and data.num_classes == 11 and data.classes[:2] == ("background", "0")


@pytest.mark.parametrize(
    ("string", "args", "message"),
    [
        ("digits-detection:x", {}, "takes no location, got 'x'"),
        ("digits-detection", {"train": 3}, "train must be a whole number from 10 on, got 3"),
        ("digits-segmentation", {"test": "many"}, "test must be a whole number"),
        ("digits-segmentation", {"size": 8}, "8x8 is too small"),
        ("digits-segmentation", {"mask": True}, "unknown argument 'mask'"),
    ],
)
def test_bad_arguments_are_named(string, args, message):
    with pytest.raises(InputError, match=message):
        open_data(string, args=args)


def test_a_small_network_learns_to_tell_digits_from_the_background():
    from torch import nn

    data = open_data("digits-segmentation", args={"train": 64, "test": 16, "size": 32})
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 11, 3, padding=1))
    optimizer = torch.optim.Adam(module.parameters(), 0.02)
    for epoch in range(4):
        for inputs, targets in data.batches("train", batch_size=16, shuffle=True).at_epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), targets).backward()
            optimizer.step()
    inputs, targets = next(iter(data.batches("test", batch_size=16)))
    accuracy = ((module(inputs).argmax(1) > 0) == (targets > 0)).float().mean()
    assert accuracy > (targets == 0).float().mean()
