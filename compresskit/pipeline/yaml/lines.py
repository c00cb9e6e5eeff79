"""Reading YAML with the line of every key kept, so that an error can name it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ...core.limits.reading import read_bounded
from .text import LONGEST_TEXT, Lines, parse_value, parse_yaml

_BYTES_A_CHARACTER = 4


def read_yaml(path: str | Path) -> tuple[Any, Lines]:
    """Content and lines of a YAML file, safe-loaded.

    Raises:
        InputError: if the file is missing, no regular file, too large, not text, or refused by `parse_yaml`.
    """
    where = f"recipe {str(path)!r}"
    return parse_yaml(_read_text(path, where), where)


def _read_text(path: str | Path, where: str) -> str:
    content = read_bounded(path, where, _BYTES_A_CHARACTER * LONGEST_TEXT)
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} cannot be read: {error}; save it as UTF-8") from error


def line_of(path: tuple[Any, ...], lines: Lines) -> int | None:
    """The line of a path, or of its nearest parent that has one."""
    for end in range(len(path), -1, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


def set_value(content: Any, assignment: str) -> None:
    """Apply `a.0.b=VALUE` (VALUE is YAML) to a loaded recipe, in place; missing mappings are made.

    Raises:
        InputError: if the assignment has no '=' or its path leads nowhere.
    """
    dotted, equals, text = assignment.partition("=")
    if not equals or not dotted.strip():
        raise InputError(f"--set {assignment!r}: write KEY=VALUE, e.g. --set steps.0.prune.ratio=0.6")
    value = parse_value(text, f"--set {assignment[:80]!r}: the value is not YAML that a recipe takes")
    *parents, last = dotted.strip().split(".")
    here = content
    for key in parents:
        here = _descend(here, key, assignment)
    if isinstance(here, list):
        here[_index(here, last, assignment)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise InputError(f"--set {assignment!r}: {'.'.join(parents)} is not a mapping")


def _descend(here: Any, key: str, assignment: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, key, assignment)]
    if not isinstance(here, dict):
        raise InputError(f"--set {assignment!r}: nothing stands under {key!r}")
    if here.get(key) is None:
        here[key] = {}
    return here[key]


def _index(here: list, key: str, assignment: str) -> int:
    if not key.isdigit() or int(key) >= len(here):
        raise InputError(f"--set {assignment!r}: {key!r} is not a position in a list of {len(here)}")
    return int(key)
