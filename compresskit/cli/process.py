"""What a process owes its shell: signals that end it tidily, and output streams that may be closed."""

from __future__ import annotations

import errno
import io
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ..core.errors import CompresskitError, system_error

_AGAIN_SECONDS = 5.0  # a second signal within that time would only interrupt the tidying up
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_DISK_WORDS = ("No space left on device", "disk is full", "File too large", "Disk quota exceeded", "disk I/O error")


_said: list[str] = []  # what an interruption says, the innermost last


@contextmanager
def interruption_says(text: str) -> Iterator[None]:
    """While open, an interruption ends with this text; after one, it stays."""
    _said.append(text)
    try:
        yield
    except CompresskitError:
        _said.pop()
        raise
    _said.pop()


def interrupted() -> str:
    """What an interrupted command says."""
    return "; ".join(["interrupted; nothing half-written is left", *_said[-1:]])


def resuming(command: Sequence[str]) -> str:
    """A command line that goes on with what another one finished."""
    return shlex.join([*command, *([] if "--resume" in command else ["--resume"])])


class Interruption:
    """Ctrl-C, SIGTERM and SIGHUP as KeyboardInterrupt, so that everything on the way out tidies up after itself.

    Attributes:
        came: whether a signal has arrived; libraries may have turned the exception into another one.
    """

    def __init__(self) -> None:
        self.came = False
        self._since = 0.0

    def listen(self) -> None:
        """Install the handlers; a signal that the parent process ignores (nohup) stays ignored."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if self.came and time.monotonic() - self._since < _AGAIN_SECONDS:
            return
        self.came, self._since = True, time.monotonic()
        raise KeyboardInterrupt


class _Forgiving:
    """A text stream of progress whose reader may go away: what cannot be written is dropped."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def open_streams() -> None:
    """Give stdin, stdout and stderr somewhere to go where the shell closed them, and let stderr never fail.

    Without this the first file that is opened would take a closed stream's number, and prints would land in it.
    """
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            name = ("stdin", "stdout", "stderr")[number]
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):  # a name that is no UTF-8 is still a name
        with suppress(AttributeError, OSError, ValueError):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
    sys.stderr = _Forgiving(sys.stderr)


def separate_results() -> None:
    """Keep stdout for results: what code writes to its number past Python goes to stderr."""
    with suppress(AttributeError, OSError, ValueError):
        if sys.stdout.fileno() == 1 and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.flush()
            own = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
            os.dup2(2, 1)
            sys.stdout = own


def close_streams() -> str | None:
    """Flush what was printed; the reason why it could not be, where its reader has not just gone away."""
    reason = None
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
    except OSError as error:
        reason = f"stdout: {error.strerror}"
        silence()
    sys.stderr.flush()
    return reason


def silence() -> None:
    """Point stdout nowhere, so that the interpreter does not try again at its end."""
    handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, sys.stdout.fileno())
    os.close(handle)


def disk_error(error: BaseException | None) -> str | None:
    """What a full or failing disk said, wherever in an exception's causes it stands; None for other errors."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _DISK:
            return f"{error.filename or 'file system'}: {system_error(error)}"
        for words in _DISK_WORDS:
            if words in str(error):
                return words[0].lower() + words[1:]
        error = error.__cause__ or error.__context__
    return None
