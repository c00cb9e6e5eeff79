"""The forms of data strings, as far as they can be told without reading anything. Imports no torch."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from ..core.errors import InputError, beside, nearest
from ..core.registry import REFERENCE
from ..core.user_code.in_memory import is_in_memory
from .tables import READERS

OWN_READER = re.compile(rf"({REFERENCE.removeprefix('^').removesuffix('$')}):(.+)", re.DOTALL)
#: suffix -> form of data that such a file usually is
_FORMS = {".csv": "csv", ".npz": "npz", ".jsonl": "jsonl", ".txt": "text", ".json": "coco", ".yaml": "yolo"}
MADE = "none"  # data that are made from the model
_PATTERN = re.compile(r"[*?{\[\0]")  # a location that a reader expands, or refuses, by itself


def check_named(string: str) -> None:
    """Refuse a data string that names nothing, as far as files and tables tell.

    Raises:
        InputError: with the nearest form or name.
    """
    form, _, location = string.partition(":")
    if string == MADE or is_in_memory(string):
        return
    if READERS.builtin(form):
        _check_location(string, location, READERS.attribute(form, "location", ""))
    elif READERS.has(form) or OWN_READER.match(string):
        return
    elif not location or _is_misspelt(form):
        raise InputError(f"unknown data {string!r}{_as_path(string) or nearest(form, READERS.rows())}")
    elif form.endswith(".py") and not Path(form).is_file():
        raise InputError(f"data {string!r}: file {form!r} does not exist{beside(Path(form))}")


def _as_path(string: str) -> str:
    """The form that a bare path probably lacks; empty where the string is none."""
    form = _FORMS.get(Path(string).suffix)
    if form is not None:
        return f"; did you mean '{form}:{string}'?"
    is_folder = "/" in string and ":" not in string
    return f"; for a folder of images by class say 'imagefolder:{string}'" if is_folder else ""


def _check_location(string: str, location: str, kind: str) -> None:
    if not location and kind != "none":
        raise InputError(f"data {string!r}: say where it is, e.g. {string.partition(':')[0]}:PATH")
    path = Path(location)
    if kind in ("", "none") or _PATTERN.search(location):
        return
    try:
        if path.exists():
            return
    except OSError:  # the reader says what it is
        return
    what = "data file" if kind == "file" else "data directory"
    raise InputError(f"{what} {location!r} does not exist{beside(path, folders=kind == 'folder')}")


def _is_misspelt(form: str) -> bool:
    """Whether what stands before the colon is almost a reader's name, and no module."""
    near = bool(get_close_matches(form, READERS.rows(), n=1, cutoff=0.8))
    return near and form.isidentifier() and find_spec(form) is None
