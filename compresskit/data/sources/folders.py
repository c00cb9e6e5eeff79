"""Folders and files as readers of images find them: splits, pictures as tensors, arguments in range."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError, beside
from ..images import SUFFIXES, find_images, load

#: names that the folders or parts of splits go by
SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
_SHOWN = 3


def split_folders(root: Path) -> dict[str, Path | None]:
    """The folder of each split below a folder; None where there is none."""
    return {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in SPLIT_FOLDERS.items()
    }


def named_splits(parts: dict[str, Any], where: str) -> tuple[Any, Any, Any, str]:
    """(train, test, val, note) of what is there of three splits; without a test, val serves as one.

    Raises:
        InputError: if there is no train, or neither test nor val.
    """
    if parts.get("train") is None:
        raise InputError(f"{where} has no train split among {', '.join(name for name in parts if parts[name])}")
    if parts.get("test") is not None:
        return parts["train"], parts["test"], parts.get("val"), ""
    if parts.get("val") is None:
        raise InputError(f"{where} has a train folder but neither test nor val")
    return parts["train"], parts["val"], None, "test is the val folder; val is held out from train"


def directory(location: str, what: str = "data directory") -> Path:
    """A folder that exists.

    Raises:
        InputError: if it does not.
    """
    path = Path(location)
    try:
        there = path.is_dir()
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {location!r} cannot be read: {error}") from error
    if not there:
        raise InputError(f"{what} {location!r} does not exist{beside(path, folders=True)}")
    return path


def images_below(folder: Path) -> list[Path]:
    """Every image below a folder, sorted.

    Raises:
        InputError: if there are none.
    """
    paths = find_images(folder)
    if not paths:
        raise InputError(f"{str(folder)!r} holds no images ({', '.join(SUFFIXES)})")
    return paths


def picture(path: Path | IO[bytes], channels: int) -> Tensor:
    """An image file, (channels, height, width) uint8, of its own size."""
    return torch.from_numpy(load(path, channels))


def resized(image: Tensor, size: tuple[int, int] | None) -> Tensor:
    """An image (channels, height, width) uint8 stretched to a size; None leaves it."""
    if size is None or tuple(image.shape[-2:]) == tuple(size):
        return image
    wide = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    return wide.round().clamp(0, 255).to(torch.uint8)


def whole(value: Any, name: str, where: str, least: int = 0) -> int:
    """An argument that is a whole number from `least` on.

    Raises:
        InputError: if it is anything else.
    """
    if type(value) is not int or value < least:
        raise InputError(f"data {where!r}: {name} must be a whole number from {least} on, got {value!r:.60}")
    return value


def shown(lines: list[str], what: str) -> str:
    """Lines of what was left out, the first few of them; "" where there are none."""
    if not lines:
        return ""
    more = f", and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return f"{len(lines)} {what}: {'; '.join(lines[:_SHOWN])}{more}"


def joined_notes(*notes: str) -> str:
    """Notes that are not empty, as one."""
    return "; ".join(note for note in notes if note)
