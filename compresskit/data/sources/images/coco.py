"""Boxes and masks of a COCO annotation file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....core.errors import InputError, require
from ....core.limits.json_files import read_json
from ....core.types import Preprocessing
from ...collate import Function
from ...images import readable
from ...loaders import dataset_split
from ...splits.base import Splits, divided
from ..folders import directory, joined_notes, shown, whole
from .boxes import Boxed, Found

_LARGEST_BYTES = 4 << 30  # of an annotation file


def coco(
    location: str,
    preprocessing: Preprocessing,
    *,
    images: str | None = None,
    val: str | None = None,
    test: str | None = None,
    masks: bool = False,
    keypoints: bool = False,
    max_bad: int = 0,
    collate: Function | None = None,
) -> Splits:
    """Images with boxes of instances_*.json; labels are the file's category ids, crowds are left out.

    Args:
        location: the annotation file of train.
        preprocessing: size that images and boxes are stretched to (default: none), and channels.
        images: folder of the images; default: where they are found beside the file.
        val, test: annotation files of these splits; without a test a fifth of train is held out.
        masks: whether targets have masks, too.
        keypoints: whether they have keypoints; instances without any are left out.
        max_bad: images of each split that may fail to decode; they are left out and named.
    Raises:
        InputError: if a file is missing, or is no such annotation.
    """
    where = f"coco:{location}"
    whole(max_bad, "max_bad", where)
    for name, value in (("masks", masks), ("keypoints", keypoints)):
        if not isinstance(value, bool):
            raise InputError(f"data {where!r}: {name} is true or false, got {value!r:.60}")
    wanted = frozenset(name for name, value in (("masks", masks), ("keypoints", keypoints)) if value)
    bad: list[str] = []
    parts: dict[str, Any] = {}
    names: tuple[str, ...] = ()
    for split, path in (("train", location), ("val", val), ("test", test)):
        if path is None:
            continue
        boxed, found_names = _read(str(path), images, preprocessing, wanted, max_bad, bad)
        names = names or found_names
        parts[split] = dataset_split(boxed, range(len(boxed)), repr(where), collate)
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    if "test" in parts:
        splits = Splits(parts["train"], parts["test"], parts.get("val"), classes=names)
    else:
        splits = divided(parts["train"], None, names)
    splits.note = joined_notes(splits.note, shown(bad, "images are left out"))
    return splits


def _read(
    path: str, images: str | None, preprocessing: Preprocessing, wanted: frozenset[str], max_bad: int, bad: list[str]
) -> tuple[Boxed, tuple[str, ...]]:
    what = f"annotations {path!r}"
    content = read_json(Path(path), what, _LARGEST_BYTES)
    try:
        files = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
        annotations: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for entry in content["annotations"]:
            if entry["image_id"] not in files:
                raise InputError(
                    f"{what}: annotation {entry.get('id')} is of image {entry['image_id']}, which is not there"
                )
            without = "keypoints" in wanted and not any((entry.get("keypoints") or ())[2::3])
            if not entry.get("iscrowd") and not without:
                _check(entry, what, wanted)
                annotations[entry["image_id"]].append(entry)
        categories = {int(entry["id"]): str(entry["name"]) for entry in content.get("categories", ())}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} is no COCO annotation file: {type(error).__name__} {error}") from error
    if not files:
        raise InputError(f"{what} names no images")
    points: set[int] = set()
    if "keypoints" in wanted:
        points = {len(entry["keypoints"]) // 3 for entries in annotations.values() for entry in entries}
        if len(points) != 1:
            raise InputError(f"{what} has instances of {sorted(points)} keypoints; all need the same number")
    folder = directory(images, "image folder") if images else _folder_of(Path(path), next(iter(files.values())))
    paths = [folder / name for name in files.values()]
    missing = next((place for place in paths if not place.is_file()), None)
    if missing is not None:
        raise InputError(
            f"{what}: image {str(missing)!r} does not exist; say where they are with --data-arg images=DIR"
        )
    found: list[Found] = [partial(_found, annotations[number], wanted, max(points, default=0)) for number in files]
    if max_bad:
        kept, lines = readable(paths, max_bad)
        bad += lines
        paths, found = [paths[number] for number in kept], [found[number] for number in kept]
    names = tuple(categories.get(number, "") for number in range(max(categories, default=-1) + 1))
    return Boxed(paths, found, preprocessing.size, 1 if preprocessing.channels == 1 else 3), names


def _check(entry: Mapping[str, Any], what: str, wanted: frozenset[str]) -> None:
    box = entry["bbox"]
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)
    if not numbers or type(entry["category_id"]) is not int or entry["category_id"] < 0:
        raise InputError(
            f"{what}: annotation {entry.get('id')} needs bbox [x, y, width, height] and a category_id from 0 on"
        )
    if "masks" in wanted and not isinstance(entry.get("segmentation"), list | Mapping):
        raise InputError(f"{what}: annotation {entry.get('id')} has no segmentation; leave masks out")
    points: Any = entry.get("keypoints") if "keypoints" in wanted else []
    if len(points) % 3 or not all(isinstance(number, int | float) for number in points):
        raise InputError(f"{what}: annotation {entry.get('id')} needs keypoints as x, y, visibility, x, y, ...")


def _folder_of(path: Path, first: str) -> Path:
    stem = path.stem.removeprefix("instances_")
    beside = [path.parent, path.parent / "images", path.parent / stem]
    above = [path.parent.parent / "images", path.parent.parent / stem, path.parent.parent / "images" / stem]
    for folder in [*beside, *above]:
        if (folder / first).is_file():
            return folder
    raise InputError(f"annotations {str(path)!r}: image {first!r} is not found beside it; give --data-arg images=DIR")


def _found(
    entries: list[Mapping[str, Any]], wanted: frozenset[str], points: int, height: int, width: int
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    corners = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    labels = torch.tensor([entry["category_id"] for entry in entries], dtype=torch.int64)
    others = {}
    if "masks" in wanted:
        drawn = [mask_of(entry["segmentation"], height, width) for entry in entries]
        others["masks"] = torch.from_numpy(np.stack(drawn) if drawn else np.zeros((0, height, width), bool))
    if "keypoints" in wanted:
        numbers = [entry["keypoints"] for entry in entries]
        others["keypoints"] = torch.tensor(numbers, dtype=torch.float32).reshape(-1, points, 3)
    return corners, labels, others


def mask_of(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A segmentation of COCO, (height, width) bool: polygons, or run lengths as a list or as COCO's text.

    Raises:
        InputError: if it is neither, or of another size.
    """
    if isinstance(segmentation, list):
        drawing = require("PIL.ImageDraw", "vision")
        image = require("PIL.Image", "vision").new("1", (width, height))
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise InputError(
                    f"a polygon of a segmentation needs x, y, x, y, ... of three corners, got {polygon!r:.80}"
                )
            drawing.Draw(image).polygon([float(v) for v in polygon], outline=1, fill=1)
        return np.array(image, dtype=bool)
    if list(segmentation.get("size", ())) != [height, width]:
        raise InputError(f"a segmentation is of size {segmentation.get('size')}, its image [{height}, {width}]")
    counts = segmentation.get("counts")
    lengths = counts if isinstance(counts, list) else run_lengths(str(counts))
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    if len(values) != height * width:
        raise InputError(f"run lengths of a segmentation add up to {len(values)} of {height * width} pixels")
    return values.reshape(width, height).T  # column by column


def run_lengths(text: str) -> list[int]:
    """Run lengths of COCO's compressed text: groups of five bits, low ones first, from the fourth number on as the
    difference to the last but one (as pycocotools writes them)."""
    lengths: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            if position == len(text):
                raise InputError("run lengths of a segmentation end in the middle of a number")
            bits = ord(text[position]) - 48
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            position, shift = position + 1, shift + 5
            if not more and bits & 0x10:
                value |= -1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
    return lengths
