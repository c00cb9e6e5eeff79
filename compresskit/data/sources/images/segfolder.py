"""Images and their masks in folders: a class for every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ....core.errors import InputError
from ....core.types import Preprocessing
from ...images import load_map, readable, size_and_bands
from ...loaders import dataset_split
from ...preprocessing import resized_map
from ...splits.base import Splits, divided
from ..folders import (
    SPLIT_FOLDERS,
    directory,
    images_below,
    joined_notes,
    named_splits,
    picture,
    resized,
    shown,
    split_folders,
    whole,
)

_IMAGES = ("images", "image", "imgs", "img", "JPEGImages")
_MASKS = ("masks", "mask", "labels", "annotations", "SegmentationClass", "gt")
_IGNORED = 255  # of masks, by custom; -100 is what cross-entropy leaves out
_LOOKED_AT = 64  # masks from which it is told whether they are of zeros and 255s


@dataclass
class Masked(Dataset[Any]):
    """Pairs of an image and a mask, both of one size.

    Attributes:
        pairs: (image file, mask file).
        size: (height, width).
        channels: of an image.
        binary: whether 255 is a class of its own, 1; else it is left out of losses.
        classes: number of classes; None takes whatever masks hold.
    """

    pairs: list[tuple[Path, Path]]
    size: tuple[int, int]
    channels: int
    binary: bool
    classes: int | None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(channels, height, width) uint8 and (height, width) int64; -100 is ignored."""
        path, mask_path = self.pairs[index]
        image, mask = picture(path, self.channels), torch.from_numpy(load_map(mask_path)).long()
        if image.shape[-2:] != mask.shape:
            raise InputError(
                f"mask {str(mask_path)!r} is {list(mask.shape)} and its image {list(image.shape[-2:])}; "
                "give both one size"
            )
        mask = (mask > 0).long() if self.binary else mask.masked_fill(mask == _IGNORED, -100)
        if self.classes is not None and int(mask.max()) >= self.classes:
            raise InputError(f"mask {str(mask_path)!r} holds a class {int(mask.max())}, and classes is {self.classes}")
        return resized(image, self.size), resized_map(mask, self.size)


def segfolder(location: str, preprocessing: Preprocessing, *, classes: int | None = None, max_bad: int = 0) -> Splits:
    """Images and masks of one name: DIR/SPLIT/images and DIR/SPLIT/masks, DIR/images/SPLIT, or DIR/images alone.

    A mask is a grey image or one with a palette whose pixels are classes from 0; 255 is left out of losses, and is the
    only class where masks hold nothing but 0 and 255.

    Args:
        location: DIR.
        preprocessing: size that both are stretched to (default: that of the first image), and channels.
        classes: number of classes, so that a mask that holds another is named.
        max_bad: images of each split that may fail to decode; they are left out and named.
    Raises:
        InputError: if folders or masks are missing, or do not fit.
    """
    where = f"segfolder:{location}"
    whole(max_bad, "max_bad", where)
    if classes is not None:
        whole(classes, "classes", where, 1)
    root = directory(location)
    bad: list[str] = []
    found: dict[str, list[tuple[Path, Path]]] = {}
    for split, folders in _folders(root).items():
        pairs = _pairs(*folders)
        if max_bad:
            kept, lines = readable([image for image, _ in pairs], max_bad)
            bad += lines
            pairs = [pairs[number] for number in kept]
        found[split] = pairs
    first = next(iter(found.values()))
    own_size, bands = size_and_bands(first[0][0])
    values = {int(v) for _, mask in first[:_LOOKED_AT] for v in torch.from_numpy(load_map(mask)).unique()}
    binary = values == {0, _IGNORED}
    channels = 1 if (preprocessing.channels or bands) == 1 else 3
    parts = {
        split: dataset_split(made, range(len(made)), repr(where))
        for split, pairs in found.items()
        for made in [Masked(pairs, preprocessing.size or own_size, channels, binary, classes)]
    }
    number = 2 if binary else classes
    if list(parts) == ["all"]:
        splits = divided(parts["all"], number)
    else:
        train, test, val, note = named_splits(parts, f"data directory {location!r}")
        splits = Splits(train, test, val, number, note)
    splits.note = joined_notes(splits.note, shown(bad, "images are left out"))
    return splits


def _folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """(images, masks) of each split; of "all" where there are no splits."""
    images, masks = _one(root, _IMAGES), _one(root, _MASKS)
    if images and masks:
        inner = {split: (images / name, masks / name) for split, names in SPLIT_FOLDERS.items() for name in names
                 if (images / name).is_dir() and (masks / name).is_dir()}  # fmt: skip
        return inner or {"all": (images, masks)}
    found = {}
    for split, folder in split_folders(root).items():
        inside = (_one(folder, _IMAGES), _one(folder, _MASKS)) if folder else (None, None)
        if inside[0] and inside[1]:
            found[split] = (inside[0], inside[1])
    if not found:
        raise InputError(
            f"data directory {str(root)!r} holds no folders images and masks (expected SPLIT/images and SPLIT/masks, "
            "or images and masks)"
        )
    return found


def _one(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    by_name = {path.relative_to(masks).with_suffix(""): path for path in images_below(masks)}
    pairs = []
    for path in images_below(images):
        name = path.relative_to(images).with_suffix("")
        if name not in by_name:
            raise InputError(f"image {str(path)!r} has no mask {str(masks / name)!r} (.png)")
        pairs.append((path, by_name[name]))
    return pairs
