"""Scenes of scikit-learn's digits on canvases: boxes to detect, and maps of classes to segment. No download."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ....core.errors import InputError
from ....core.types import Preprocessing
from ...collate import Function
from ...loaders import dataset_split
from ...splits.base import Splits
from .digits import digits_in_memory

CLASSES = tuple(map(str, range(10)))
_SIZE = (64, 64)
_TRAIN, _TEST = 1600, 400
_MOST_DIGITS = 4
_SMALLEST, _LARGEST = 0.2, 0.45  # of the canvas's shorter side
_TRIES = 20  # places for a digit that overlaps none before it
_INK = 0.25  # from which on a pixel belongs to the digit
_SEED = 20180908
_LARGEST_KEPT = 128 * 128  # pixels of a canvas that is drawn once and kept; larger ones are drawn each time


@dataclass
class Scenes(Dataset[Any]):
    """Digits pasted on canvases of noise; scene `i` is the same in every run.

    Attributes:
        digits: (n, 1, 8, 8) in [0, 1].
        labels: (n,) their classes.
        count: number of scenes.
        size: (height, width) of a canvas.
        channels: of an image; all hold the same grey.
        form: "boxes", "masks" (boxes and a mask each), or "map" (one class a pixel).
        first: seed of the first scene.
    """

    digits: Tensor
    labels: Tensor
    count: int
    size: tuple[int, int]
    channels: int
    form: str
    first: int = 0
    _drawn: dict[int, tuple[Tensor, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """An image, (channels, height, width) uint8, and its target.

        Returns:
            of "map": (height, width) int64, 0 for the background and 1 to 10 for the digits; else boxes (n, 4) as x0,
            y0, x1, y1 in pixels, labels (n,) from 1 to 10 as torchvision counts them, masks (n, height, width) bool.
        """
        if index not in self._drawn:
            scene = self._draw(index)
            if self.size[0] * self.size[1] > _LARGEST_KEPT:
                return self._target(scene)
            self._drawn[index] = scene
        return self._target(self._drawn[index])

    def _target(self, scene: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        image, target = scene
        return image.expand(self.channels, -1, -1), target.long() if self.form == "map" else target

    def _draw(self, index: int) -> tuple[Tensor, Any]:
        generator = torch.Generator().manual_seed(_SEED + self.first + index)
        canvas = torch.rand(self.size, generator=generator) * 0.2
        masks: list[Tensor] = []
        labels: list[int] = []
        boxes: list[list[float]] = []
        for _ in range(1 + _below(_MOST_DIGITS, generator)):
            number = _below(len(self.labels), generator)
            ink = self._place(boxes, generator, self.digits[number])
            if ink is None:
                continue
            canvas = torch.maximum(canvas, ink)
            mask = ink > _INK
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            masks.append(mask)
            boxes.append([float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)])
            labels.append(1 + int(self.labels[number]))
        image = (canvas * 255).round().to(torch.uint8)
        if self.form == "map":
            target = torch.zeros(self.size, dtype=torch.uint8)
            for mask, label in zip(masks, labels, strict=True):
                target[mask] = label
            return image, target
        found = {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}
        return image, found | ({"masks": torch.stack(masks)} if self.form == "masks" else {})

    def _place(self, boxes: list[list[float]], generator: torch.Generator, digit: Tensor) -> Tensor | None:
        """The digit alone on a canvas, where it meets none of the boxes; None where no such place was drawn."""
        height, width = self.size
        low, high = (int(min(height, width) * share) for share in (_SMALLEST, _LARGEST))
        for _ in range(_TRIES):
            side = low + _below(high - low + 1, generator)
            top, left = _below(height - side + 1, generator), _below(width - side + 1, generator)
            if any(left < x1 and x0 < left + side and top < y1 and y0 < top + side for x0, y0, x1, y1 in boxes):
                continue
            ink = F.interpolate(digit[None], size=(side, side), mode="bilinear", align_corners=False)[0, 0]
            return F.pad(ink, (left, width - left - side, top, height - top - side))
        return None


def digits_detection(
    location: str,
    preprocessing: Preprocessing,
    *,
    train: int = _TRAIN,
    test: int = _TEST,
    masks: bool = False,
    channels: int | None = None,
    collate: Function | None = None,
) -> Splits:
    """Canvases with one to four digits and their boxes, in torchvision's form; `collate=stack` makes one tensor.

    Args:
        train, test: numbers of scenes.
        masks: whether targets have a mask a digit, too.
        channels: of an image; default: the model's, or 3.
    """
    form = "masks" if masks else "boxes"
    return _scenes("digits-detection", location, preprocessing, (train, test), channels, form, collate)


def digits_segmentation(
    location: str,
    preprocessing: Preprocessing,
    *,
    train: int = _TRAIN,
    test: int = _TEST,
    channels: int | None = None,
) -> Splits:
    """Canvases with one to four digits, and the class of every pixel: 0 for the background, 1 to 10 for the digits.

    Args:
        train, test: numbers of scenes.
        channels: of an image; default: the model's, or 3.
    """
    return _scenes("digits-segmentation", location, preprocessing, (train, test), channels, "map", None)


def _scenes(
    name: str,
    location: str,
    preprocessing: Preprocessing,
    counts: tuple[Any, Any],
    channels: Any,
    form: str,
    collate: Function | None,
) -> Splits:
    if location:
        raise InputError(f"data {name!r} takes no location, got {location!r}")
    channels = preprocessing.channels or 3 if channels is None else channels
    for word, value, least in (("train", counts[0], 10), ("test", counts[1], 1), ("channels", channels, 1)):
        if type(value) is not int or value < least:
            raise InputError(f"data {name!r}: {word} must be a whole number from {least} on, got {value!r:.60}")
    size = preprocessing.size or _SIZE
    if min(size) < 16:
        raise InputError(f"data {name!r}: a canvas of {size[0]}x{size[1]} is too small for digits; size is at least 16")
    first, made = 0, []
    for split, count in zip(digits_in_memory(), counts, strict=True):
        inputs, labels = split.take(torch.arange(len(split)))
        scenes = Scenes(inputs, labels, count, size, channels, form, first)
        made.append(dataset_split(scenes, range(count), repr(name), collate))
        first += count
    classes = ("background", *CLASSES) if form == "map" else CLASSES
    return Splits(made[0], made[1], num_classes=len(classes) if form == "map" else None, classes=classes)


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (1,), generator=generator))
