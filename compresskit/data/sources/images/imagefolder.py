"""Images of classes in folders."""

from __future__ import annotations

from pathlib import Path

import torch

from ....core.errors import InputError, nearest
from ....core.types import Preprocessing
from ...images import SUFFIXES, find_images, readable, size_and_bands
from ...splits.arrays import ArraySplit
from ...splits.base import Splits, divided
from ...splits.files import CACHED_BYTES, FileSplit, cached
from ..folders import directory, joined_notes, named_splits, shown, split_folders, whole

_IMAGES = {"images", "image", "imgs", "img", "jpegimages"}
_TARGETS = {"masks", "mask", "labels", "annotations", "segmentation", "segmentationclass", "annotation", "gt"}


def imagefolder(location: str, preprocessing: Preprocessing, *, max_bad: int = 0) -> Splits:
    """Images as DIR/SPLIT/CLASS/FILE, or DIR/CLASS/FILE with a fifth held out as test; classes sorted by name.

    Args:
        location: DIR.
        preprocessing: size and channels that files are decoded to.
        max_bad: files of each split that may fail to decode; they are left out and named.
    Raises:
        InputError: if there are no classes, or more files fail.
    """
    whole(max_bad, "max_bad", f"imagefolder:{location}")
    root = directory(location)
    folders = split_folders(root)
    classes = sorted(entry.name for entry in (folders["train"] or root).iterdir() if entry.is_dir())
    _check_classes(classes, root)
    bad: list[str] = []
    if folders["train"] is None:
        if not classes:
            raise InputError(
                f"data directory {str(root)!r} holds no class folders (expected SPLIT/CLASS/FILE or CLASS/FILE)"
            )
        split = _image_split(root, classes, preprocessing, max_bad, bad)
        splits = divided(split, len(classes), tuple(classes))
    else:
        parts = {
            name: _image_split(folder, classes, preprocessing, max_bad, bad) if folder else None
            for name, folder in folders.items()
        }
        train, test, val, note = named_splits(parts, f"data directory {location!r}")
        splits = Splits(train, test, val, len(classes), note, tuple(classes))
    splits.note = joined_notes(splits.note, shown(bad, "images are left out"))
    return splits


def _check_classes(classes: list[str], root: Path) -> None:
    """Refuse folders of images beside folders of what is true of them: they are no two classes."""
    found = {name.lower(): name for name in classes}
    images, targets = (next((found[name] for name in found if name in known), None) for known in (_IMAGES, _TARGETS))
    if images and targets:
        raise InputError(
            f"data directory {str(root)!r}: folders {images!r} and {targets!r} are no classes; read images and masks "
            "with segfolder:DIR, boxes with coco:ANN.json or yolo:data.yaml"
        )


def _image_split(
    folder: Path, classes: list[str], preprocessing: Preprocessing, max_bad: int, bad: list[str]
) -> ArraySplit | FileSplit:
    unknown = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name not in classes)
    if unknown:
        raise InputError(f"{str(folder)!r}: class folder {unknown[0]!r} is not in train{nearest(unknown[0], classes)}")
    paths: list[Path] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        found = find_images(folder / name)
        paths += found
        targets += [label] * len(found)
    if max_bad:
        kept, lines = readable(paths, max_bad)
        bad += lines
        paths, targets = [paths[number] for number in kept], [targets[number] for number in kept]
    if not paths:
        raise InputError(f"{str(folder)!r} holds no images ({', '.join(SUFFIXES)})")
    own_size, bands = size_and_bands(paths[0])
    channels = preprocessing.channels or bands
    size = preprocessing.size or own_size
    split = FileSplit(paths, torch.tensor(targets), (size[0], size[1]), 1 if channels == 1 else 3)
    if split.size_bytes <= CACHED_BYTES:
        return ArraySplit(cached(split), split.targets)
    return split
