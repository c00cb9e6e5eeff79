"""Writing files so that a killed or failed run leaves the old ones or none."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import InputError


def write_json(path: Path, content: Any) -> None:
    """Write JSON, indented, non-finite numbers refused, synced to disk."""
    with open(path, "w") as file:
        json.dump(content, file, indent=2, allow_nan=False, default=str)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(folder: str | Path, *, force: bool = False):
    """A temporary sibling directory that takes the folder's place only if the block ends well.

    Raises:
        InputError: if the folder exists and force is not given, or the disk refuses.
    """
    folder = Path(folder)
    if (folder.exists() or folder.is_symlink()) and not force:
        raise InputError(f"output {str(folder)!r} exists; give --force to replace it")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(f"cannot write below {str(folder.parent)!r}: {error.strerror}") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        old = None
        if folder.exists():
            old = folder.parent / f".{folder.name}.old{os.getpid()}"
            folder.rename(old)
        temporary.rename(folder)
        if old is not None:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    except OSError as error:
        raise InputError(f"cannot write {str(folder)!r}: {error.strerror or error}") from error
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)
