"""Lines of progress on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from rich.console import Console

from .report import plain


def stderr_console() -> Console:
    """The console that progress and tables go to."""
    return Console(stderr=True, emoji=False, width=None if sys.stderr.isatty() else 160)


def stderr_log() -> Callable[[str], None]:
    """A function that prints one line of progress to stderr; silent in the other processes of a torchrun."""
    if os.environ.get("RANK", "0") != "0":
        return lambda line: None
    console = stderr_console()
    return lambda line: console.print(plain(line), highlight=False, soft_wrap=True, markup=False)
