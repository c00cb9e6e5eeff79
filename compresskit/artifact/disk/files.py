"""Writing files and folders so that a killed or failed run leaves the old ones or the new ones, whole."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ...core.errors import InputError, first_line, system_error, unwritable
from . import locks, ownership

_CONTENT, _OLD = "content", "old"
_SUFFIX = ".compresskit"  # of staging folders, which lie beside what they become
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_json(path: Path, content: Any) -> None:
    """Write JSON, indented, non-finite numbers refused, synced to disk."""
    with open(path, "w") as file:
        json.dump(content, file, indent=2, allow_nan=False, default=str)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def copy_into(path: Path, target: Path) -> None:
    """Copy a file, or a folder with all that is in it, into a folder that need not be there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, target)


@contextmanager
def replacing(folder: str | Path, *, force: bool = False) -> Iterator[Path]:
    """A folder beside the wanted one that takes its place, at once and whole, only if the block ends well.

    Args:
        folder: what to write.
        force: replace a folder that this tool wrote.
    Raises:
        InputError: if the folder exists and force is not given, if it is not ours, or the disk refuses.
    """
    folder = ownership.absolute(folder)

    def check() -> None:
        if os.path.lexists(folder):
            if not force:
                raise InputError(f"output {str(folder)!r} exists; give --force to replace it")
            ownership.check_replaceable(folder)

    with _staged(folder, check) as content:
        yield content


@contextmanager
def replacing_own(folder: Path) -> Iterator[Path]:
    """The same for a folder inside one that carries our marker, where all is ours."""
    with _staged(folder, lambda: None) as content:
        yield content


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A file in a folder beside the wanted one that takes its place, whole, if the block ends well.

    Files that the block puts beside it (weights of a large graph) go to where it goes, before it.
    """
    with _staging(path) as stage:
        staged = stage / path.name
        yield staged
        beside = [entry for entry in stage.iterdir() if entry.name not in (path.name, ownership.MARKER)]
        for entry in (*beside, staged):
            _sync(entry)
            entry.replace(path.parent / entry.name)
        _sync(path.parent)


@contextmanager
def _staged(folder: Path, check: Callable[[], None]) -> Iterator[Path]:
    check()
    with _staging(folder) as stage:
        content = stage / _CONTENT
        content.mkdir()
        yield content
        for root, _, names in os.walk(content):
            for path in (*(Path(root, name) for name in names), Path(root)):
                _sync(path)
        check()  # again: the block may have lasted for hours
        if not os.path.lexists(folder):
            content.rename(folder)
        elif not exchanged(content, folder):
            folder.rename(stage / _OLD)
            content.rename(folder)
        _sync(folder.parent)


@contextmanager
def _staging(target: Path) -> Iterator[Path]:
    """A marked folder beside a target, gone afterwards; what a killed process left of the kind goes first."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        stage, handle = _new_stage(target)
    except OSError as error:
        raise unwritable(target.parent, error) from error
    try:
        yield stage
    except OSError as error:
        raise InputError(f"cannot write {str(target)!r}: {system_error(error)}") from error
    except SafetensorError as error:
        raise InputError(f"cannot write {str(target)!r}: {first_line(error)}") from error
    finally:
        _restore(stage, target)
        remove_own(stage)
        os.close(handle)


def _new_stage(target: Path) -> tuple[Path, int]:
    while True:
        stage = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_SUFFIX}")
        stage.mkdir()
        try:
            handle = locks.try_lock(stage / ownership.MARKER)
        except FileNotFoundError:  # swept before it was locked
            continue
        if handle is not None:
            ownership.write_marker(stage, target)
            return stage, handle


def sweep(target: Path) -> None:
    """Remove what killed processes left beside a target: staging folders that are ours and that nobody holds.

    Where a kill came between moving the old folder away and the new one in, the old one is put back.
    """
    prefix = f".{target.name}."
    for stage in sorted(target.parent.glob(f"{_escaped(prefix)}*{_SUFFIX}")):
        if stage.is_symlink() or len(stage.name) != len(prefix) + 8 + len(_SUFFIX):
            continue
        marker = stage / ownership.MARKER
        if not marker.exists():
            with suppress(OSError):
                stage.rmdir()  # killed before it was marked: only an empty one goes
            continue
        try:
            handle = locks.try_lock(marker)
        except FileNotFoundError:  # its owner has just ended
            continue
        if handle is None:
            continue
        try:
            # a kill may come before the marker is written, and then there is nothing else in it
            if ownership.read_marker(stage) == target.name or len(list(stage.iterdir())) == 1:
                _restore(stage, target)
                remove_own(stage)
        finally:
            os.close(handle)


def remove_own(folder: Path) -> None:
    """Delete a folder that carries our marker; the marker goes last, so that a kill leaves it recognizable."""
    marker = folder / ownership.MARKER
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry == marker:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    with suppress(OSError):  # something that cannot be deleted stays, and is tried again by the next run
        marker.unlink(missing_ok=True)
        folder.rmdir()


def _restore(stage: Path, target: Path) -> None:
    old = stage / _OLD
    if old.is_dir() and not os.path.lexists(target):
        old.rename(target)


def exchanged(first: Path, second: Path) -> bool:
    """Swap two names at once; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if not rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # a file system that syncs no folders
            raise
    finally:
        os.close(handle)


def _escaped(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)
