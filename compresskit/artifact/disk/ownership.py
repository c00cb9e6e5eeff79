"""Which folders this tool may replace: only those that it wrote, and never one that holds an input."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...core.errors import InputError

MARKER = ".compresskit.json"  # in every folder of ours that is no artifact: names the output that it belongs to
_MANIFEST = "manifest.json"
_MANIFEST_KEYS = {"format_version", "weights_sha256", "edits", "source"}  # other tools write a manifest.json too
_ARTIFACT_FILES = {_MANIFEST, "model.safetensors", "report.json", "report.html", "recipe.json", MARKER}
#: what techniques put beside the weights in releases whose manifests did not list it
_UNLISTED_FILES = {
    "decomposition.png", "sensitivity.png", "sensitivity.svg", "search.png", "loss_curves.svg", "recipe.yaml",
}  # fmt: skip
_LEFT_BY_OTHERS = {".DS_Store", "Thumbs.db", "desktop.ini"}  # file managers write them, and nobody misses them
_LONGEST_NAME_BYTES = 200  # file systems allow 255; siblings carry a few more characters


def absolute(output: str | Path) -> Path:
    """An output as an absolute path that names a folder or file of its own; links are not followed.

    Raises:
        InputError: if the path is empty, the root, too long, holds a NUL byte, or is relative to a folder that is gone.
    """
    text = os.fspath(output)
    if not text.strip() or "\0" in text:
        raise InputError(f"output {text!r} names no folder; give one, e.g. -o runs/small")
    try:
        path = Path(os.path.abspath(text))  # noqa: PTH100 (links are not followed)
    except FileNotFoundError as error:
        raise InputError(f"output {text!r}: the current folder was deleted; cd to another one") from error
    if not path.name:
        raise InputError(f"output {text!r} is the root of the disk, and is never replaced; name a folder inside it")
    length = len(os.fsencode(path.name))
    if length > _LONGEST_NAME_BYTES:
        raise InputError(f"output {text[:40]!r}...: its name has {length} bytes, at most {_LONGEST_NAME_BYTES} work")
    return path


def refuse_existing(output: Path) -> None:
    """Raises InputError if something stands where an output is to be written."""
    if os.path.lexists(output):
        raise InputError(f"output {str(output)!r} exists; give --force to replace it, or --resume to go on")


def check_replaceable(folder: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse what must not be replaced.

    Args:
        folder: an absolute path at which something exists.
        inputs: files and folders that the run reads.
    Raises:
        InputError: unless the folder is empty or carries our marker, and holds no input, nor the current folder, nor
            files of somebody else.
    """
    shown = f"output {str(folder)!r}"
    if folder.is_symlink():
        raise InputError(f"{shown} is a symbolic link, which is never replaced; name the folder that it points to")
    if not folder.is_dir():
        raise InputError(f"{shown} is not a folder, and is never replaced; give another name")
    for path in inputs:
        if holds(folder, path):
            raise InputError(f"{shown} holds the input {str(path)!r}, and is never replaced; give another name")
    _check_place(folder, shown)
    with os.scandir(folder) as entries:
        empty = next(entries, None) is None
    if not (empty or is_artifact(folder) or read_marker(folder)):
        raise InputError(
            f"{shown} was not written by compresskit (it holds no manifest of ours), and is never replaced; "
            "give another name, or move it away"
        )
    if is_artifact(folder):
        refuse_foreign(shown, foreign_entries(folder))


def refuse_foreign(shown: str, names: list[str]) -> None:
    """Raises InputError if there are files of somebody else in what would be replaced, naming the first of them."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(
            f"{shown} also holds {', '.join(map(repr, names[:3]))}{more}, not written by compresskit, and is not "
            "replaced; move that away, or give another name"
        )


def foreign_entries(folder: Path) -> list[str]:
    """Names of files and folders that lie in an artifact's folder and were not put there by this tool."""
    manifest = _json(folder / _MANIFEST)
    manifest = manifest if isinstance(manifest, dict) else {}
    source, listed = manifest.get("source"), manifest.get("files")
    named = [*(listed if isinstance(listed, list) else _UNLISTED_FILES)]
    named += [source.get("path")] if isinstance(source, dict) else []
    known = {*_ARTIFACT_FILES, *_LEFT_BY_OTHERS, *(name for name in named if isinstance(name, str))}
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not (_known_folder(entry, known) if entry.is_dir(follow_symlinks=False) else entry.name in known)
        )


def _known_folder(entry: os.DirEntry, known: set[str]) -> bool:
    """Whether a folder was written with the artifact: the manifest lists it, or all that is in it."""
    inside = {f"{entry.name}/{path.name}" for path in Path(entry.path).iterdir()}
    return _is_bytecode(entry) or entry.name in known or bool(inside) and inside <= known


def _is_bytecode(entry: os.DirEntry) -> bool:
    """Whether a folder holds nothing but what Python compiled of the artifact's own code."""
    return entry.name == "__pycache__" and all(path.suffix == ".pyc" for path in Path(entry.path).iterdir())


def check_file(path: Path, *, force: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse to write a file where something stands that must not be replaced.

    Args:
        path: an absolute path.
        force: a plain file may be replaced, whoever wrote it.
        inputs: files and folders that the command reads.
    Raises:
        InputError: if a file is there without force, or if it is a folder, a link, a device, or an input.
    """
    shown = f"output {str(path)!r}"
    if not os.path.lexists(path):
        return
    if path.is_symlink():
        raise InputError(f"{shown} is a symbolic link, which is never replaced; name the file that it points to")
    if not path.is_file():
        raise InputError(f"{shown} is not a plain file, and is never replaced; give another name")
    if any(one.exists() and _is_read(path, one) for one in inputs):
        raise InputError(f"{shown} is an input of this command, and is never replaced; give another name")
    if not force:
        raise InputError(f"output {str(path)!r} exists; give --force to replace it")


def _is_read(path: Path, given: Path) -> bool:
    """Whether a file is an input, or part of an input folder; what was put beside an artifact's own files is not."""
    if not given.is_dir() or not holds(given, path):
        return path.samefile(given)
    inside = Path(os.path.realpath(path)).relative_to(os.path.realpath(given))
    return not is_artifact(given) or inside.parts[0] not in foreign_entries(given)


def _check_place(folder: Path, shown: str) -> None:
    try:
        here = Path.cwd()
    except FileNotFoundError:
        here = None
    for place, what in ((here, "the current folder"), (Path.home(), "the home folder")):
        if place is not None and holds(folder, place):
            raise InputError(f"{shown} is or holds {what}, and is never replaced; give another name")
    inside = (Path(root, name) for root, names, _ in os.walk(folder) for name in names)
    if os.path.ismount(folder) or any(map(os.path.ismount, inside)):
        raise InputError(f"{shown} is or holds a mount point, and is never replaced; name a folder inside it")


def holds(folder: Path, path: Path) -> bool:
    """Whether a folder is the same as a path or one of its parents, whatever links or mounts lead there."""
    try:
        real = Path(os.path.realpath(path))
        return any(folder.samefile(parent) for parent in (real, *real.parents) if parent.exists())
    except OSError:
        return False


def is_artifact(folder: Path) -> bool:
    """Whether a folder holds a manifest that this tool wrote, of whatever version."""
    content = _json(folder / _MANIFEST)
    return isinstance(content, dict) and content.keys() >= _MANIFEST_KEYS


def write_marker(folder: Path, output: Path) -> None:
    """Mark a folder as ours, belonging to an output beside or around it."""
    (folder / MARKER).write_text(json.dumps({"written_by": "compresskit", "output": output.name}) + "\n")


def read_marker(folder: Path) -> str | None:
    """The name of the output that a folder of ours belongs to; None where the folder is not ours."""
    content = _json(folder / MARKER)
    if not isinstance(content, dict) or content.get("written_by") != "compresskit":
        return None
    return content.get("output")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
