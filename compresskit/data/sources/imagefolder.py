"""Images of classes in folders."""

from __future__ import annotations

from pathlib import Path

import torch

from ...core.errors import InputError, nearest
from ...core.types import Preprocessing
from ..images import SUFFIXES, find_images, size_and_bands
from ..splits.arrays import ArraySplit
from ..splits.base import Splits, divided
from ..splits.files import CACHED_BYTES, FileSplit, cached

#: names that the folders or parts of splits go by
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def imagefolder(location: str, preprocessing: Preprocessing) -> Splits:
    """Images as DIR/SPLIT/CLASS/FILE, or DIR/CLASS/FILE with a fifth held out as test; classes sorted by name."""
    root = Path(location)
    if not root.is_dir():
        raise InputError(f"data directory {location!r} does not exist")
    folders = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    if folders["train"] is None:
        return _flat_imagefolder(root, preprocessing)
    classes = sorted(entry.name for entry in folders["train"].iterdir() if entry.is_dir())
    train = _image_split(folders["train"], classes, preprocessing)
    test, val = (
        _image_split(folder, classes, preprocessing) if folder else None for folder in (folders["test"], folders["val"])
    )
    if test is not None:
        return Splits(train, test, val, len(classes))
    if val is None:
        raise InputError(f"data directory {location!r} has a train folder but neither test nor val")
    return Splits(train, val, None, len(classes), "test is the val folder; val is held out from train")


def _flat_imagefolder(root: Path, preprocessing: Preprocessing) -> Splits:
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if not classes:
        raise InputError(
            f"data directory {str(root)!r} holds no class folders (expected SPLIT/CLASS/FILE or CLASS/FILE)"
        )
    return divided(_image_split(root, classes, preprocessing), len(classes))


def _image_split(folder: Path, classes: list[str], preprocessing: Preprocessing) -> ArraySplit | FileSplit:
    unknown = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name not in classes)
    if unknown:
        raise InputError(f"{str(folder)!r}: class folder {unknown[0]!r} is not in train{nearest(unknown[0], classes)}")
    paths: list[Path] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        found = find_images(folder / name)
        paths += found
        targets += [label] * len(found)
    if not paths:
        raise InputError(f"{str(folder)!r} holds no images ({', '.join(SUFFIXES)})")
    own_size, bands = size_and_bands(paths[0])
    channels = preprocessing.channels or bands
    size = preprocessing.size or own_size
    split = FileSplit(paths, torch.tensor(targets), (size[0], size[1]), 1 if channels == 1 else 3)
    if split.size_bytes <= CACHED_BYTES:
        return ArraySplit(cached(split), split.targets)
    return split
