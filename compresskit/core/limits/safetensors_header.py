"""The header of a safetensors file, looked at before the file is mapped: sizes that lie cost nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..errors import InputError
from .reading import check_regular

LARGEST_HEADER_BYTES = 64 << 20
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64, "C128": 128,
}  # fmt: skip


def check_header(path: str | Path, what: str) -> list[str]:
    """Refuse a file whose header lies: about its own length, a number type, a shape, or where a tensor is.

    Args:
        path: the file.
        what: what errors call it.
    Returns:
        the names of its tensors.
    Raises:
        InputError: naming the tensor and what is wrong.
    """
    size = check_regular(path, what)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER_BYTES, size - 8):
            raise InputError(f"{what} is damaged or truncated: a header of {length:,} bytes in a file of {size:,}")
        header = file.read(length)
    try:
        entries = json.loads(header.decode(), object_pairs_hook=_no_duplicates)
        if not isinstance(entries, dict):
            raise ValueError("it is no mapping")
        named = [(name, _checked(name, entry)) for name, entry in entries.items() if name != "__metadata__"]
        _check_places(named, size - 8 - length)
        return [name for name, _ in named]
    except RecursionError:
        raise InputError(f"{what} is damaged or truncated: its header is nested too deep") from None
    except ValueError as error:
        raise InputError(f"{what} is damaged or truncated: its header is wrong: {error}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _checked(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor's bytes begin and end."""
    shown = name[:100]
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"tensor {shown!r} lacks dtype, shape or data_offsets")
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"tensor {shown!r} has the unknown number type {str(dtype)[:20]!r}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
            raise ValueError(f"tensor {shown!r} has sizes or offsets that are no sizes")
    if len(offsets) != 2 or len(shape) > 64:
        raise ValueError(f"tensor {shown!r} has {len(offsets)} offsets and {len(shape)} dimensions")
    wanted = math.prod(shape) * _BITS[dtype] // 8
    if offsets[1] - offsets[0] != wanted:
        raise ValueError(f"tensor {shown!r} has {offsets[1] - offsets[0]:,} bytes for {wanted:,}")
    return offsets[0], offsets[1]


def _check_places(named: list[tuple[str, tuple[int, int]]], size: int) -> None:
    end = 0
    for name, (first, last) in sorted(named, key=lambda item: item[1]):
        if first != end:
            raise ValueError(f"tensor {name[:100]!r} begins at byte {first:,}, the one before it ends at {end:,}")
        end = last
    if end != size:
        raise ValueError(f"tensors take {end:,} bytes, the file has {size:,}")
