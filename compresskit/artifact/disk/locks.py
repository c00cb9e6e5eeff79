"""One run at a time on one output: a lock file beside it, released by the kernel whatever ends the process."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...core.errors import InputError, unwritable

try:
    import fcntl
except ImportError:  # Windows, where outputs are not locked
    fcntl = None  # type: ignore[assignment]  # a module or None, which no annotation of an import can say


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the lock of an output; its file `.NAME.lock` is gone afterwards.

    Args:
        output: absolute path; its parent exists.
    Raises:
        InputError: if another process holds it, with that process, its machine and since when; if the parent folder
            cannot be written to.
    """
    path = output.with_name(f".{output.name}.lock")
    try:
        handle = try_lock(path)
    except OSError as error:
        raise unwritable(output.parent, error) from error
    if handle is None:
        raise InputError(f"output {str(output)!r} is in use by {_holder(path)}; wait for it, or give another output")
    try:
        note = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "command": " ".join(sys.argv[:3]),
        }
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(note).encode(), 0)
        yield
    finally:
        with suppress(OSError):  # removed while it is held, so that nobody waits for a name that is gone
            path.unlink()
        os.close(handle)


@contextmanager
def in_folder(output: Path) -> Iterator[None]:
    """Make the folder that an output lies in, and remove it again if it is empty afterwards.

    Raises:
        InputError: if it cannot be made.
    """
    made = _make_folders(output.parent)
    try:
        yield
    finally:
        for folder in reversed(made):
            with suppress(OSError):  # it holds something now
                folder.rmdir()


def try_lock(path: Path) -> int | None:
    """An open file that holds the lock of a path; None if another process holds it.

    The kernel drops the lock when the file is closed or the process dies. File systems without locks give an open file
    all the same.

    Raises:
        OSError: if the file cannot be made.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            return handle  # no locks here
        try:
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass  # its last holder has just removed it: try the name anew
        os.close(handle)


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.read_text())
        return f"process {note['pid']} on {note['host']} since {note['since']} ({note['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder with its parents; the ones that are new, outermost first."""
    missing: list[Path] = []
    try:
        while not folder.exists() and folder != folder.parent:
            missing.insert(0, folder)
            folder = folder.parent
        for path in missing:
            path.mkdir(exist_ok=True)
        if not folder.is_dir():
            raise NotADirectoryError(20, "Not a directory")
    except OSError as error:
        raise unwritable(folder, error) from error
    return missing
