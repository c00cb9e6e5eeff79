"""What a command can end with, and the wording that goes with it. Imports nothing heavy."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

#: exit code -> (what machines call it, what it means)
EXIT_CODES = {
    0: ("done", "done"),
    1: ("bug", "a bug of compresskit; --debug shows the traceback"),
    2: ("bad_input", "bad input; the message says what, where, and how to fix it"),
    3: ("guard_missed", "a guard or a budget was missed; the last good artifact and the model that missed are kept"),
    130: ("interrupted", "interrupted; --resume goes on"),
}

_OFFERED = 12  # names beside a path that is not there
_LISTED = 30  # names of a table; of more, the rest is counted
_PERMISSION = "give yourself permission (chmod, chown), or name another path"
_ROOM = "make room, or name a path on another disk"
#: number of a system's error -> how to fix it
_REMEDIES = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "the file system is mounted for reading alone; name a path on another",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EMFILE: "raise the limit of open files, e.g. ulimit -n 4096",
    errno.ENAMETOOLONG: "give a shorter name",
}


class CompresskitError(Exception):
    """Base of every error that is shown as one line instead of a traceback."""

    exit_code = 1


class InputError(CompresskitError, ValueError):
    """Bad input, configuration or usage. The message says what, where, and how to fix it."""

    exit_code = 2


class ForwardError(InputError):
    """A model's forward raised on its example inputs."""


class ShapeError(InputError):
    """A tensor has another shape than the operation takes."""


class Diverged(InputError):
    """A training loss is no finite number any more, so the weights are lost."""


class GuardMissed(CompresskitError):
    """A guard or target was missed; the last good artifact is kept.

    Args:
        message: what was missed.
        artifact: folder of the model that missed it, where that is kept.
    """

    exit_code = 3

    def __init__(self, message: str, artifact: str | None = None):
        super().__init__(message)
        self.artifact = artifact


def first_line(error: BaseException) -> str:
    """The first line of an exception's text; its type's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def system_error(error: OSError, *, or_else: str = "") -> str:
    """What the system refused, and how to fix it.

    Args:
        error: as the system raised it.
        or_else: how to fix what has no remedy of its own.
    Returns:
        'No space left on device; make room, or name a path on another disk'.
    """
    remedy = _REMEDIES.get(error.errno or 0, or_else)
    return f"{error.strerror or error}{'; ' if remedy else ''}{remedy}"


def unwritable(folder: object, error: OSError) -> InputError:
    """That nothing can be written below a folder, why, and how to fix it."""
    return InputError(f"cannot write below {str(folder)!r}: {system_error(error, or_else='name another output')}")


def nearest(name: str, names: Iterable[str]) -> str:
    """The mend for an unknown name: '; did you mean X?', or the choices when nothing is near."""
    names = list(names)
    close = get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; choose from {', '.join(names[:_LISTED])}{more}" if names else ""


def beside(path: Path, *, folders: bool = False) -> str:
    """The mend for a path that is not there: the nearest name beside it.

    Args:
        path: what is not there.
        folders: offer folders alone.
    """
    names: list[str] = []
    with suppress(OSError, ValueError):
        names = sorted(one.name for one in path.parent.iterdir() if not folders or one.is_dir())
    if names:
        return nearest(path.name, names) if get_close_matches(path.name, names, n=1) else nearest("", names[:_OFFERED])
    if path.parent.is_dir():
        return "; name one that is there"
    return f"; its folder {str(path.parent)!r} does not exist either"


def described(error: BaseException) -> str:
    """An error's type and the first line of its text, if it has any."""
    name, line = type(error).__name__, first_line(error)
    return line if line.startswith(name) else f"{name}: {line}"


def problems_of(*checks: Callable[[], object]) -> list[str]:
    """The lines of the InputErrors that some checks raise; each check runs, whatever the others found."""
    lines: list[str] = []
    for check in checks:
        try:
            check()
        except InputError as error:
            lines += str(error).splitlines()
    return lines


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Args:
        module: the module to import, e.g. "torchvision".
        extra: the extra of this package that installs it, e.g. "vision".
    Raises:
        InputError: if the module is not installed, with the install line.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{module} is needed here and does not import ({error}); pip install 'compresskit[{extra}]'"
        ) from error
