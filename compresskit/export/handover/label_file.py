"""Names of classes from a text file. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import InputError

_MOST_BYTES = 1 << 24


def read_labels(given: str) -> list[str]:
    """The names of a text file, a class a line.

    Raises:
        InputError: (a ValueError) if it is no such file.
    """
    path = Path(given)
    if not path.is_file():
        raise InputError(f"labels {given!r} does not exist")
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(f"labels {given!r} is larger than a list of names; give a class a line")
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"labels {given!r} is no text in UTF-8; give a class a line") from error
