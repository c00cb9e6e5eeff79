"""Random changes of training batches; every draw comes from the generator that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError
from ...core.tensors.batches import pick
from ..tables import AUGMENTATIONS
from . import paired_augmentations

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class MixedTargets:
    """Targets of blended examples: `share` of `first` and the rest of `second`."""

    first: Any
    second: Any
    share: float


def map_targets(function: Callable[[Any], Any], targets: Any) -> Any:
    """Apply a function to targets, blended or not."""
    if isinstance(targets, MixedTargets):
        return MixedTargets(function(targets.first), function(targets.second), targets.share)
    return function(targets)


class Composed:
    """Augmentations in a row.

    Args:
        rows: name -> function (inputs, generator) -> inputs.
    """

    def __init__(self, rows: Mapping[str, Augmentation]):
        self._rows = dict(rows)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Inputs changed alone."""
        for function in self._rows.values():
            inputs = function(inputs, generator)
        return inputs

    def with_targets(self, inputs: Any, targets: Any, generator: torch.Generator) -> tuple[Any, Any]:
        """Inputs changed, and with them targets that lie on their pixels: boxes, masks, maps.

        Raises:
            InputError: if one of the augmentations would leave such targets behind.
        """
        on_pixels = paired_augmentations.lies_on_pixels(inputs, targets)
        for name, function in self._rows.items():
            if on_pixels and _attribute(name, function, "paired", default=False):
                inputs, targets = paired_augmentations.move(name, inputs, targets, generator)
            elif on_pixels and _attribute(name, function, "moves", default=True):
                raise paired_augmentations.refuse(name)
            elif isinstance(inputs, Tensor):
                inputs = function(inputs, generator)
            elif isinstance(inputs, tuple) and len(inputs) == 1 and isinstance(inputs[0], list):
                inputs = ([function(image[None], generator)[0] for image in inputs[0]],)
        return inputs, targets


def _attribute(name: str, function: Augmentation, attribute: str, *, default: bool) -> bool:
    row = AUGMENTATIONS.get(name)
    known = getattr(function, attribute, default) if row is None else row.attributes.get(attribute, default)
    return bool(known)


def compose(names: Sequence[str]) -> Composed | None:
    """One augmentation that applies the named ones in the table's order, a user's own after these; None of none."""
    own = [name for name in dict.fromkeys(names) if name not in AUGMENTATIONS]
    rows = {name: AUGMENTATIONS.load(name) for name in [*(name for name in AUGMENTATIONS if name in names), *own]}
    return Composed(rows) if rows else None


def random_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to an eighth of its side in each direction, filling with zeros.

    Args:
        images: (batch, channels, height, width).
    """
    check_images(images)
    batch, _, height, width = images.shape
    pad = max(1, min(height, width) // 8)
    padded = F.pad(images, (pad, pad, pad, pad))
    top = torch.randint(0, 2 * pad + 1, (batch, 1), generator=generator) + torch.arange(height)
    left = torch.randint(0, 2 * pad + 1, (batch, 1), generator=generator) + torch.arange(width)
    # (batch, height, width, channels): advanced indices around a slice come first
    cut = padded[torch.arange(batch)[:, None, None], :, top[:, :, None], left[:, None, :]]
    return cut.permute(0, 3, 1, 2).contiguous()


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left-right with probability one half; (batch, channels, height, width)."""
    check_images(images)
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def check_images(images: Tensor) -> None:
    """Refuse what is no batch of images, (batch, channels, height, width)."""
    if images.dim() != 4:
        raise InputError(
            f"augment works on images, and a batch of this data has shape {list(images.shape)}; leave it out"
        )


def mix(
    inputs: Tensor, targets: Any, generator: torch.Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, MixedTargets]:
    """Mixup or CutMix with a random partner; where both are on, one of them is drawn each time.

    Args:
        inputs: (batch, ...); CutMix needs (batch, channels, height, width).
        targets: (batch, ...).
        mixup: alpha of the Beta distribution that the blend is drawn from; 0 is off.
        cutmix: the same for the area of the pasted box.
    Sources: Zhang et al., "mixup", 2018; Yun et al., "CutMix", 2019.
    """
    partner = torch.randperm(len(inputs), generator=generator)
    paste = cutmix > 0 and (mixup == 0 or bool(torch.rand((), generator=generator) < 0.5))
    share = _beta(cutmix if paste else mixup, generator)
    if paste:
        check_images(inputs)
        top, bottom, left, right = _box(inputs.shape[2], inputs.shape[3], share, generator)
        mixed = inputs.clone()
        mixed[:, :, top:bottom, left:right] = inputs[partner, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (inputs.shape[2] * inputs.shape[3])
    else:
        mixed = share * inputs + (1 - share) * inputs[partner]
    return mixed, MixedTargets(targets, pick(targets, partner), share)


def _beta(alpha: float, generator: torch.Generator) -> float:
    """One draw of Beta(alpha, alpha): a ratio of gamma draws."""
    draw = torch._standard_gamma  # pyright: ignore[reportPrivateImportUsage]  # torch's distributions take no generator
    first, second = (float(draw(torch.tensor(alpha, dtype=torch.float64), generator=generator)) for _ in "ab")
    return first / (first + second) if first + second > 0 else 0.5


def _box(height: int, width: int, share: float, generator: torch.Generator) -> tuple[int, int, int, int]:
    cut = (1 - share) ** 0.5
    middle_y, middle_x = (int(torch.randint(0, side, (1,), generator=generator)) for side in (height, width))
    half_y, half_x = int(height * cut) // 2, int(width * cut) // 2
    return (
        max(middle_y - half_y, 0),
        min(middle_y + half_y, height),
        max(middle_x - half_x, 0),
        min(middle_x + half_x, width),
    )
