"""Opening files that a stranger may have put there: regular files of a bounded size, never a pipe or a device."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from ..errors import InputError, beside


def check_regular(path: str | Path, what: str) -> int:
    """The size in bytes of a regular file; symbolic links are followed.

    Args:
        path: the file.
        what: what errors call it, e.g. "data file 'x.csv'".
    Raises:
        InputError: if there is no such file, it cannot be looked at, or it is a folder, a pipe, a socket or a device.
    """
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        raise InputError(f"{what} does not exist{beside(Path(path))}") from None
    except OSError as error:
        reason = "its links lead in a circle" if error.errno == errno.ELOOP else error.strerror
        raise InputError(f"{what} cannot be read: {reason}") from error
    except ValueError as error:  # a NUL byte in the name
        raise InputError(f"{what} cannot be read: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{what} is not a regular file")
    return found.st_size


def read_bounded(path: str | Path, what: str, largest_bytes: int) -> bytes:
    """The content of a regular file that is not larger than it may be.

    Raises:
        InputError: as `check_regular`, or if the file is larger.
    """
    if check_regular(path, what) > largest_bytes:
        raise InputError(f"{what} is larger than {largest_bytes:,} bytes")
    try:
        with open(path, "rb") as file:
            return file.read(largest_bytes)
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror}") from error
