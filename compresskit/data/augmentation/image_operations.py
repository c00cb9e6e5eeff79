"""Augmentations that torchvision.transforms.v2 computes, drawn anew for each image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.errors import require
from ...core.tensors.randomness import manual_seed
from .transforms import check_images


def rand_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """RandAugment as torchvision has it: two operations at magnitude 9 an image.

    Args:
        images: (batch, 1 or 3, height, width) in [0, 1].
    Source: Cubuk et al., "RandAugment", 2020.
    """
    return _changed(images, generator, "RandAugment")


def trivial_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """TrivialAugment (wide): one operation of random strength an image; arguments as for `rand_augment`.

    Source: Müller & Hutter, "TrivialAugment", ICCV 2021.
    """
    return _changed(images, generator, "TrivialAugmentWide")


def color_jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation times a factor of 0.6 to 1.4 each; arguments as for `rand_augment`."""
    return _changed(images, generator, "ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4)


def resized_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random part of 50 to 100 % of an image, stretched to the image's size; arguments as for `rand_augment`.

    Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015.
    """
    check_images(images)
    return _changed(images, generator, "RandomResizedCrop", size=tuple(images.shape[-2:]), scale=(0.5, 1.0))


def erase(images: Tensor, generator: torch.Generator) -> Tensor:
    """With probability one half, zeros in a rectangle of 2 to 33 % of the image; arguments as for `rand_augment`.

    Source: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.
    """
    return _changed(images, generator, "RandomErasing")


def _changed(images: Tensor, generator: torch.Generator, name: str, **settings: Any) -> Tensor:
    """Each image changed by a class of torchvision.transforms.v2, which takes 8-bit images of three channels."""
    check_images(images)
    transform = getattr(require("torchvision.transforms.v2", "vision"), name)(**settings)
    seed = int(torch.randint(0, 2**31, (1,), generator=generator))
    grey = images.shape[1] == 1
    quantized = (images.expand(-1, 3, -1, -1) if grey else images).mul(255).round().clamp(0, 255).to(torch.uint8)
    with torch.random.fork_rng(devices=[]):
        manual_seed(seed)  # torchvision draws from the global generator
        changed = torch.stack([transform(image) for image in quantized]).float() / 255
    return changed.mean(1, keepdim=True) if grey else changed
