"""JSON files that a stranger may have written: bounded in size, depth and numbers, no key twice."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import InputError
from .reading import read_bounded

LARGEST_MANIFEST_BYTES = 32 << 20
_DEEPEST = 48
_MOST_VALUES = 2_000_000
_LARGEST_INTEGER = 1 << 63


def read_json(path: Path, where: str, largest_bytes: int) -> Any:
    """JSON of a file: finite numbers of at most 64 bits, no key twice, bounded in size and depth.

    Args:
        path: the file.
        where: what errors call it.
        largest_bytes: a larger file is refused.
    Raises:
        InputError: naming the file and what is wrong.
    """
    content = read_bounded(path, where, largest_bytes)
    try:
        parsed = json.loads(
            content.decode(), parse_constant=_no_constant, parse_float=_finite, parse_int=_integer,
            object_pairs_hook=_no_duplicates,
        )  # fmt: skip
    except RecursionError:
        raise InputError(f"{where} is damaged: nested too deep") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both
        raise InputError(f"{where} is damaged: {error}") from error
    _check_size(parsed, where)
    return parsed


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number that JSON has")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond the largest float")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or not -_LARGEST_INTEGER <= (value := int(text)) < 2 * _LARGEST_INTEGER:
        raise ValueError(f"the number {text[:24]}... has {len(text):,} digits")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"key {counts.most_common(1)[0][0][:80]!r} stands twice")
    return found


def _check_size(content: Any, where: str) -> None:
    waiting, values = [(content, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        values += 1
        if depth > _DEEPEST or values > _MOST_VALUES:
            limit = f"nested more than {_DEEPEST} deep" if depth > _DEEPEST else f"more than {_MOST_VALUES:,} values"
            raise InputError(f"{where} is damaged: {limit}")
        if isinstance(item, dict):
            waiting += [(value, depth + 1) for value in item.values()]
        elif isinstance(item, list):
            waiting += [(value, depth + 1) for value in item]
