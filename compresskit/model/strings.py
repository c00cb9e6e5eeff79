"""The forms of model strings, as far as they can be told without building anything. Imports no torch."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from ..core.errors import InputError, beside, nearest
from ..core.user_code.in_memory import is_in_memory
from .tables import BUILTINS

MANIFEST = "manifest.json"
EXPORTED_SUFFIX = ".pt2"
FORMS = (
    "torchvision:NAME, timm:NAME, hf:DIR_OR_ID, builtin:NAME, package.module:factory, path/net.py:factory, "
    "an artifact directory, a .pt2 file"
)
_PREFIXES = ("torchvision", "timm", "hf", "builtin")
_MODULE_FORM = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")


def is_exported(string: str | None) -> bool:
    """Whether a model string names a .pt2 file."""
    return string is not None and string != "" and Path(string).suffix == EXPORTED_SUFFIX and not Path(string).is_dir()


def refuse_change(string: str | None, what: str = "model") -> None:
    """Say that a .pt2 is read-only, for whoever would change it.

    Raises:
        InputError: if the string names a .pt2.
    """
    if is_exported(string):
        raise InputError(
            f"{what} {string!r} is an exported program, which inspect, diff and export read but nothing changes; "
            "start from the factory that it was exported from"
        )


def folder_of(string: str) -> Path | None:
    """The folder of the artifact that a model string names, by itself or by its manifest, there or not; else None."""
    path = Path(string)
    if path.is_dir():
        return path
    return path.parent if string.rstrip("/").endswith(MANIFEST) else None


def refuse_foreign(folder: Path) -> None:
    """Raises InputError if a folder that is named as a model is no artifact, with what it may be."""
    if (folder / MANIFEST).is_file():
        return
    is_transformers = (folder / "config.json").is_file()
    mend = f"for a transformers model say 'hf:{folder}'" if is_transformers else "name the output of a finished command"
    raise InputError(f"{str(folder)!r} is not an artifact: it holds no {MANIFEST}; {mend}")


def check_named(string: str, what: str = "model") -> None:
    """Refuse a model string that names nothing, as far as files and tables tell.

    Args:
        string: as a user gave it.
        what: what errors call it.
    Raises:
        InputError: with the nearest form or name.
    """
    if is_in_memory(string):
        return
    if (folder := folder_of(string)) is not None:
        refuse_foreign(folder)
        return
    if is_exported(string):
        if not Path(string).is_file():
            raise InputError(f"{what} {string!r} does not exist{beside(Path(string))}")
        return
    split(string, what)


def split(string: str, what: str = "model") -> tuple[str, str, str]:
    """A string that names a factory as (kind, where, name); where is empty for libraries and builtin models.

    Raises:
        InputError: if the string has none of the forms, or names a file or builtin model that is not there.
    """
    prefix, colon, name = string.partition(":")
    if colon and prefix in _PREFIXES and name:
        if prefix == "builtin" and name not in BUILTINS:
            raise InputError(BUILTINS.unknown(name))
        return prefix, "", name
    if colon and (prefix.endswith(".py") or "/" in prefix):
        if not Path(prefix).is_file():
            raise InputError(f"{what} {string!r}: file {prefix!r} does not exist{beside(Path(prefix))}")
        return "file", prefix, name
    if _MODULE_FORM.match(string):
        near = get_close_matches(prefix, _PREFIXES, n=1, cutoff=0.8)
        if near and "." not in prefix and find_spec(prefix) is None:
            raise InputError(f"{what} {string!r} is none of the known forms; did you mean '{near[0]}:{name}'?")
        return "module", prefix, name
    if "/" in string or string.startswith("."):
        raise InputError(f"{what} {string!r} does not exist; a model is one of {FORMS}")
    raise InputError(f"{what} {string!r} is none of the known forms{_form_hint(string)}")


def _form_hint(string: str) -> str:
    if string in BUILTINS:
        return f"; did you mean 'builtin:{string}'?"
    prefix, colon, _ = string.partition(":")
    if not colon and string.isidentifier():
        return f"; say whose it is, e.g. 'torchvision:{string}'; a model is one of {FORMS}"
    hint = nearest(prefix, _PREFIXES) if colon else ""
    return hint.replace(f"{prefix!r}", repr(prefix)) if "mean" in hint else f": {FORMS}"
