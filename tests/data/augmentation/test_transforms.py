"""Augmentations: what may come out, and that the generator alone decides it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from compresskit.core.errors import InputError
from compresskit.data.augmentation import transforms
from compresskit.evaluation.losses import task_loss


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int = 16, channels: int = 3, height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.rand(batch, channels, height, width, generator=generator(9)) * 0.5 + 0.25


@pytest.mark.parametrize("name", list(transforms.AUGMENTATIONS))
def test_shape_range_and_seed(name):
    if transforms.AUGMENTATIONS[name].attributes:
        pytest.importorskip("torchvision")
    function = transforms.AUGMENTATIONS.load(name)
    before = torch.random.get_rng_state()
    for channels in (1, 3):
        x = images(channels=channels)
        first, again, other = (function(x, generator(seed)) for seed in (0, 0, 1))
        assert first.shape == x.shape
        assert first.min() >= 0
        assert first.max() <= 1
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["crop", "flip"])
def test_images_are_changed_one_by_one(name):
    function = transforms.AUGMENTATIONS.load(name)
    x = images(1).expand(32, -1, -1, -1)
    assert len({image.numpy().tobytes() for image in function(x, generator())}) > 1


def test_a_crop_is_a_window_of_the_padded_image():
    x = images(8, 2, 16, 24)
    found = transforms.random_crop(x, generator())
    padded = F.pad(x, (2, 2, 2, 2))
    for image, source in zip(found, padded, strict=True):
        windows = [source[:, top : top + 16, left : left + 24] for top in range(5) for left in range(5)]
        assert any(torch.equal(image, window) for window in windows)


def test_a_flip_mirrors_some_and_leaves_the_others():
    x = images(64)
    found = transforms.random_flip(x, generator())
    mirrored = sum(torch.equal(a, b.flip(2)) for a, b in zip(found, x, strict=True))
    kept = sum(torch.equal(a, b) for a, b in zip(found, x, strict=True))
    assert mirrored + kept == 64
    assert 20 < mirrored < 44


def test_names_are_applied_in_the_tables_order():
    x = images()
    both = transforms.compose(["flip", "crop"])(x, generator(3))
    source = generator(3)
    assert torch.equal(both, transforms.random_flip(transforms.random_crop(x, source), source))
    assert transforms.compose([]) is None


def test_vectors_are_refused():
    with pytest.raises(InputError, match=r"augment works on images, and a batch of this data has shape \[2, 5\]"):
        transforms.random_crop(torch.zeros(2, 5), generator())


def test_mixup_blends_inputs_as_it_blends_targets():
    x, y = images(), torch.arange(16)
    mixed, targets = transforms.mix(x, y, generator(), mixup=0.8, cutmix=0.0)
    assert 0 < targets.share < 1
    assert torch.equal(targets.first, y)
    assert torch.allclose(mixed, targets.share * x + (1 - targets.share) * x[targets.second], atol=1e-6)


def test_cutmix_pastes_a_box_of_the_partners_area():
    x, y = images(), torch.arange(16)
    for seed in range(8):
        mixed, targets = transforms.mix(x, y, generator(seed), mixup=0.0, cutmix=1.0)
        own, partner = (mixed == x).all(1), (mixed == x[targets.second]).all(1)
        assert bool((own | partner).all())
        # where the partner is another image, the share is that of places that stayed
        other = targets.second != y
        assert own[other].float().mean().item() == pytest.approx(targets.share, abs=1e-6)


def test_both_are_drawn_in_turn():
    x, y = images(), torch.arange(16)
    pasted = 0
    for seed in range(40):
        mixed, targets = transforms.mix(x, y, generator(seed), mixup=1.0, cutmix=1.0)
        pasted += bool(((mixed == x) | (mixed == x[targets.second])).all())
    assert 8 < pasted < 32


def test_the_loss_of_blended_targets_is_the_blend_of_losses():
    logits, first, second = torch.randn(6, 5), torch.arange(6) % 5, (torch.arange(6) + 2) % 5
    blended = transforms.MixedTargets(first, second, 0.3)
    soft = 0.3 * F.one_hot(first, 5).float() + 0.7 * F.one_hot(second, 5).float()
    expected = F.cross_entropy(logits, soft, label_smoothing=0.1)
    assert task_loss(logits, blended, 0.1).item() == pytest.approx(expected.item(), rel=1e-5)
