"""Image files of a folder: found, decoded, resized and cropped; whatever cannot be read is named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..core.errors import CompresskitError, InputError, first_line, require
from ..core.limits.reading import check_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_RESIZE_BEFORE_CROP = 256 / 224
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow cuts their values off at 255 where it converts them


def find_images(folder: Path) -> list[Path]:
    """Every image below a folder, sorted.

    Raises:
        InputError: naming one that is a pipe, a socket, a device or a link in a circle.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    images = []
    for path in found:
        if path.is_dir():
            continue
        check_regular(path, f"image {str(path)!r}")
        images.append(path)
    return images


def size_and_bands(path: Path) -> tuple[tuple[int, int], int]:
    """((height, width), channels) of an image file, from its header."""
    image_module = _pillow()
    try:
        with image_module.open(path) as image:
            return image.size[::-1], len(image.getbands())
    except Exception as error:
        raise _unreadable(path, error) from error


def decode(path: Path | IO[bytes], size: Sequence[int], channels: int) -> np.ndarray:
    """One image as (channels, height, width) uint8; another size is resized with a margin, then centre-cropped.

    Of an animation the first picture counts; 16-bit grey keeps its upper 8 bits; transparency is dropped.

    Raises:
        InputError: if it cannot be decoded, or is larger than Pillow decodes.
    """
    try:
        with _pillow().open(path) as image:
            pixels = as_pixels(image, size, channels)
    except CompresskitError:
        raise
    except Exception as error:  # Pillow's decoders raise what they like on damaged files
        raise _unreadable(path, error) from error
    # in the order of memory that the cache gives them back in: the same weights come of the first and later runs
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if channels == 3 else pixels[None]


def load(path: Path | IO[bytes], channels: int) -> np.ndarray:
    """One image as (channels, height, width) uint8 of its own size.

    Raises:
        InputError: if it cannot be decoded, or is larger than Pillow decodes.
    """
    try:
        with _pillow().open(path) as image:
            pixels = as_pixels(image, image.size[::-1], channels)
    except CompresskitError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if channels == 3 else pixels[None].copy()


def load_map(path: Path) -> np.ndarray:
    """One image whose pixels are numbers (a palette's, or grey), (height, width) uint8.

    Raises:
        InputError: if it cannot be decoded, or its pixels are colours.
    """
    try:
        with _pillow().open(path) as image:
            if image.mode not in ("P", "L", "1", *_WIDE_MODES):
                raise InputError(
                    f"image {str(path)!r} has pixels of {image.mode}; a map of classes is grey or has a palette"
                )
            return np.array(image if image.mode != "1" else image.convert("L"))
    except CompresskitError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def readable(paths: Sequence[Path], max_bad: int) -> tuple[list[int], list[str]]:
    """Which images decode, by decoding each of them.

    Args:
        paths: image files.
        max_bad: how many of them may fail.
    Returns:
        the numbers of those that decode, and a line for each of the others.
    Raises:
        InputError: if more fail; the first of them is named.
    """

    def problem(path: Path) -> str:
        try:
            load(path, 1)
        except InputError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = list(pool.map(problem, paths))
    bad = [line for line in problems if line]
    if len(bad) > max_bad:
        raise InputError(f"{len(bad)} images cannot be read, and max_bad is {max_bad}; the first: {bad[0]}")
    return [number for number, line in enumerate(problems) if not line], bad


def as_pixels(image: Any, size: Sequence[int], channels: int) -> np.ndarray:
    """A Pillow image as (height, width[, 3]) uint8 of the given (height, width)."""
    if image.mode in _WIDE_MODES:
        image = _upper_bits(image)
    elif image.mode == "F":
        name = str(getattr(image, "filename", ""))
        raise InputError(f"image {name!r} has float pixels; save it with 8 bits a channel")
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (size[1], size[0]):
        image = _fit(image, size)
    return np.asarray(image)


def _upper_bits(image: Any) -> Any:
    values = np.asarray(image)
    if values.max(initial=0) > 255:
        values = values >> 8
    return _pillow().fromarray(values.clip(0, 255).astype(np.uint8))


def _fit(image: Any, size: Sequence[int]) -> Any:
    height, width = size
    # small sources are only scaled: there is no border to spare
    margin = _RESIZE_BEFORE_CROP if min(image.size) > max(size) else 1.0
    scale = max(width / image.size[0], height / image.size[1]) * margin
    image = image.resize((max(round(image.size[0] * scale), width), max(round(image.size[1] * scale), height)))
    left, top = (image.size[0] - width) // 2, (image.size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def _unreadable(path: Path | IO[bytes], error: Exception) -> InputError:
    return InputError(
        f"image {str(path)!r} cannot be read: {first_line(error)[:200]}; readers of folders skip up to N bad ones with "
        "--data-arg max_bad=N"
    )


def _pillow() -> Any:
    return require("PIL.Image", "vision")
