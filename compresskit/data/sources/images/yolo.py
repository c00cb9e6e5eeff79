"""Boxes of a YOLO data.yaml: images, and one text file of relative boxes each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ....core.errors import InputError, first_line
from ....core.limits.reading import read_bounded
from ....core.types import Preprocessing
from ...collate import Function
from ...images import readable
from ...loaders import dataset_split
from ...splits.base import Splits, divided
from ..folders import images_below, joined_notes, named_splits, shown, whole
from .boxes import Boxed, Found

_LARGEST_YAML_BYTES = 1 << 20
_LARGEST_TEXT_BYTES = 64 << 20


def yolo(
    location: str,
    preprocessing: Preprocessing,
    *,
    first_label: int = 1,
    max_bad: int = 0,
    collate: Function | None = None,
) -> Splits:
    """Images with boxes of a data.yaml: folders or lists of images under train, val and test, `names` of the classes.

    The boxes of `images/a/b.jpg` are in `labels/a/b.txt`, a line each: class, centre x, centre y, width, height as
    shares of the image, or class and a polygon. An image without that file has none.

    Args:
        location: data.yaml.
        preprocessing: size that images and boxes are stretched to (default: none), and channels.
        first_label: label of class 0; torchvision's detectors count from 1 (0 is the background), YOLO's loss from 0.
        max_bad: images of each split that may fail to decode; they are left out and named.
    Raises:
        InputError: if a file is missing or malformed.
    """
    where = f"yolo:{location}"
    whole(max_bad, "max_bad", where)
    whole(first_label, "first_label", where)
    content = _content(location)
    root = Path(location).parent / str(content.get("path") or "")
    names = content.get("names") or {}
    listed = [str(names[key]) for key in sorted(names)] if isinstance(names, dict) else [str(name) for name in names]
    bad: list[str] = []
    parts: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        if content.get(split):
            boxed = _boxed(_images(content[split], root, where), listed, first_label, preprocessing, max_bad, bad)
            parts[split] = dataset_split(boxed, range(len(boxed)), repr(where), collate)
    classes = ("",) * first_label + tuple(listed)
    if list(parts) == ["train"]:
        splits = divided(parts["train"], None, classes)
    else:
        train, test, val, note = named_splits(parts, f"data file {location!r}")
        splits = Splits(train, test, val, None, note, classes)
    splits.note = joined_notes(splits.note, shown(bad, "images are left out"))
    return splits


def _content(location: str) -> dict[str, Any]:
    what = f"data file {location!r}"
    try:
        content = yaml.safe_load(read_bounded(location, what, _LARGEST_YAML_BYTES))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} is no YAML: {first_line(error)[:200]}") from error
    if not isinstance(content, dict) or not content.get("train"):
        raise InputError(f"{what} needs a key train (and val, test, names), as YOLO's data.yaml has them")
    return content


def _images(given: Any, root: Path, where: str) -> list[Path]:
    """The images of a folder, of a text file with a path a line, or of a list of these."""
    if isinstance(given, list):
        return [path for one in given for path in _images(one, root, where)]
    place = root / str(given)
    if place.is_dir():
        return images_below(place)
    if place.suffix == ".txt" and place.is_file():
        lines = read_bounded(place, f"list of images {str(place)!r}", _LARGEST_TEXT_BYTES).decode().split("\n")
        return [place.parent / line.strip() for line in lines if line.strip()]
    raise InputError(f"data {where!r}: {str(place)!r} is neither a folder of images nor a .txt file of their paths")


def _boxed(
    paths: list[Path], names: list[str], first: int, preprocessing: Preprocessing, max_bad: int, bad: list[str]
) -> Boxed:
    if max_bad:
        kept, lines = readable(paths, max_bad)
        bad += lines
        paths = [paths[number] for number in kept]
    found: list[Found] = [partial(_found, *_lines(_labels_of(path), len(names), first)) for path in paths]
    return Boxed(paths, found, preprocessing.size, 1 if preprocessing.channels == 1 else 3)


def _labels_of(image: Path) -> Path:
    """images/.../x.jpg -> labels/.../x.txt, the last folder of that name."""
    parts = list(image.parts)
    places = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _lines(path: Path, classes: int, first: int) -> tuple[Tensor, Tensor]:
    """Relative boxes (n, 4) as x0, y0, x1, y1, and labels (n,), of a file of labels; none where there is no file."""
    boxes: list[list[float]] = []
    labels: list[int] = []
    text = read_bounded(path, f"labels {str(path)!r}", _LARGEST_TEXT_BYTES).decode() if path.is_file() else ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            label, *values = (float(word) for word in line.split())
            polygon = len(values) >= 6 and len(values) % 2 == 0
            if label != int(label) or not (len(values) == 4 or polygon) or not all(-1 <= v <= 2 for v in values):
                raise ValueError
        except (ValueError, OverflowError):
            raise InputError(
                f"labels {str(path)!r}, line {number}: expected class, x, y, width, height as shares of the image, got "
                f"{line.strip()!r:.80}"
            ) from None
        if label < 0 or (classes and label >= classes):
            raise InputError(f"labels {str(path)!r}, line {number}: class {label:g} is none of {classes} names")
        if polygon:
            boxes.append([min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])])
        else:
            x, y, width, height = values
            boxes.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        labels.append(int(label) + first)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64)


def _found(boxes: Tensor, labels: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    return boxes * torch.tensor([width, height, width, height]), labels, {}
