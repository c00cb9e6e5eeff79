"""Results alone go to stdout: while a command runs, whatever else prints there is sent to stderr."""

from __future__ import annotations

import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

_streams: list[TextIO] = []  # where results go, the innermost last

_written: list[TextIO] = []  # where the last result went


@contextmanager
def only_results_on_stdout() -> Iterator[None]:
    """Send prints of models, data and libraries to stderr; `write_result` still writes to stdout."""
    _streams.append(result_stream())
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _streams.pop()


def anything_written() -> bool:
    """Whether any result was written."""
    return bool(_written)


def result_stream() -> TextIO:
    """Where results go."""
    return _streams[-1] if _streams else sys.stdout


def write_result(text: str, end: str = "\n") -> None:
    """Write a result, at once; characters that the terminal cannot show are written as escapes."""
    stream = result_stream()
    encoding = stream.encoding or "utf-8"
    stream.write((text + end).encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
    _written.append(stream)
    del _written[:-1]


def write_prose(text: str) -> None:
    """Write a result that is sentences, in lines that a terminal has room for."""
    write_result(broken(text, result_stream()))


def broken(text: str, stream: TextIO) -> str:
    """Text broken between words where a terminal shows it, as it is where a program reads it."""
    width = _columns(stream)
    return text if width is None else "\n".join(_broken_line(line, width) for line in text.split("\n"))


def _columns(stream: TextIO) -> int | None:
    """Characters of a terminal's line; None where the stream is no terminal."""
    if not stream.isatty():
        return None
    try:
        return int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # a stream without a number, a terminal that does not say
        return None


def _broken_line(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    parts = textwrap.wrap(
        line, width, subsequent_indent=f"{indent}  " if indent else "", break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(parts) or line


def printable(text: str) -> str:
    """Text as one line that a terminal shows and does not obey: control and direction characters as escapes."""
    return "".join(_escaped(character) if _is_command(character) else character for character in text)


def _is_command(character: str) -> bool:
    # Cc: control, ESC included; Cf: direction overrides; Cs: bytes of a name that is no UTF-8; Zl, Zp: line ends
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
