"""The files that a recipe names, and hashes of what is in them: how a resume finds out that an input changed."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...model.checkpoints.weights import sha256_of

#: options that name what is written, or that decide nothing
WRITTEN = frozenset({"output", "cache", "storage", "study", "workers"})
_BARE = frozenset({"model", "weights", "source", "teacher", "student", "timings"})  # may name a path by one plain word
_ALL_CONTENT_BYTES, _ALL_CONTENT_FILES = 256 << 20, 10_000  # larger folders count by names, sizes and times
_LIBRARIES = ("torchvision", "timm", "builtin")  # whose names are no paths, even where a folder is called so
_SEPARATORS = re.compile(r"[/\\.:#]")
_MODULE = re.compile(r"[A-Za-z_][\w.]*$")
_INDEX = ".index.json"  # of sharded weights


def named_paths(options: Mapping[str, Any]) -> list[Path]:
    """Existing files and folders that options name in any of their strings, without those that they write to.

    Strings may be nested, and a path may follow a prefix (`npz:FILE`) or stand before a name (`FILE.py:make`,
    `FILE#KEY`). Modules are found by name, without importing them.
    """
    found = {path: None for key, text in _strings(options) for path in _paths_in(key, text)}
    return list(found)


def fingerprint(path: Path, leave_out: Collection[Path] = ()) -> str:
    """A hash that changes with what a path holds.

    Args:
        path: a file; a folder, with all below it; a Python file, with those that it imports from its folder; the index
            of sharded weights, with its shards.
        leave_out: absolute paths below a folder that do not count: what the run itself writes.
    """
    if path.is_dir():
        return _folder(path, leave_out)
    if path.suffix == ".py":
        beside = path.resolve().parent
        return _digest({os.path.relpath(file, beside): sha256_of(file) for file in sorted(imported_files(path))})
    if path.name.endswith(_INDEX):
        return _digest({shard.name: sha256_of(shard) for shard in [path, *_shards(path)]})
    return sha256_of(path)


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name not in WRITTEN:
                yield from _strings(item, str(name))
                yield from _strings(name, key) if isinstance(item, Mapping) else ()
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _strings(item, key)


def _paths_in(key: str, text: str) -> Iterator[Path]:
    if not text or "\0" in text or len(text) > 4096 or not (key in _BARE or _SEPARATORS.search(text)):
        return
    before, _, after = text.partition(":")
    if before in _LIBRARIES:
        return
    candidates = [text, after, text.rpartition(":")[0], text.partition("#")[0]]
    if before.endswith(".py"):  # FILE.py:reader:LOCATION
        candidates += [before, after.partition(":")[2]]
    for candidate in dict.fromkeys(candidates):
        if candidate and _exists(candidate):
            yield Path(candidate)
    if after and _MODULE.match(before):
        module = _module_file(before)
        if module is not None:
            yield module


def _exists(text: str) -> bool:
    try:
        return Path(text).is_file() or (Path(text).is_dir() and os.path.realpath(text) != "/")
    except (ValueError, OSError):
        return False


def _module_file(name: str) -> Path | None:
    """The file of an importable module, found without running anything; none for one of Python's own (`csv:FILE`)."""
    parts = name.split(".")
    elsewhere = [] if parts[0] in sys.stdlib_module_names else sys.path
    for root in dict.fromkeys([str(Path.cwd()), *elsewhere]):
        base = Path(root or ".").joinpath(*parts)
        for path in (base.with_suffix(".py") if parts[-1] else base, base / "__init__.py"):
            if path.is_file():
                return path
    return None


def imported_files(path: Path) -> set[Path]:
    """A Python file and those that it imports from its own folder, and they in turn.

    Of a package all Python files count. What code reads beside its imports is not known.
    """
    seen: set[Path] = set()
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        folders = dict.fromkeys([file.parent, path.resolve().parent])
        for name in _imports(file):
            for base in (folder.joinpath(*name.split(".")) for folder in folders):
                if base.with_suffix(".py").is_file():
                    waiting.append(base.with_suffix(".py"))
                package = next((one for one in (base, base.parent) if (one / "__init__.py").is_file()), None)
                if package is not None and package not in (file.parent, file.parent.parent):
                    waiting += sorted(package.rglob("*.py"))
    return seen


def _imports(file: Path) -> list[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how the user's code spells its strings, whenever it is imported
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module] if node.module else []
            names += [f"{node.module}.{alias.name}" if node.module else alias.name for alias in node.names]
    return [name for name in names if "*" not in name]


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        return []
    return [index.with_name(name) for name in sorted(map(str, names)) if index.with_name(Path(name).name).is_file()]


def _folder(folder: Path, leave_out: Collection[Path]) -> str:
    files: list[tuple[str, Path]] = []
    for root, names, leaves in os.walk(folder, followlinks=False):
        names[:] = sorted(name for name in names if not _left_out(Path(root, name), leave_out))
        paths = (Path(root, leaf) for leaf in leaves)
        files += [(str(path.relative_to(folder)), path) for path in paths if not _left_out(path, leave_out)]
    stats = {name: path.stat() for name, path in files if path.is_file()}
    by_content = len(stats) <= _ALL_CONTENT_FILES and sum(s.st_size for s in stats.values()) <= _ALL_CONTENT_BYTES
    rows = {
        name: sha256_of(path) if by_content else [stats[name].st_size, stats[name].st_mtime_ns]
        for name, path in files
        if name in stats
    }
    return _digest(rows)


def _left_out(path: Path, leave_out: Collection[Path]) -> bool:
    return path.name == "__pycache__" or Path(os.path.abspath(path)) in leave_out  # noqa: PTH100 (links not followed)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
