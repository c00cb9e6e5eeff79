"""Run the command line in this process and judge what it ends with."""

from __future__ import annotations

import contextlib
import io
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SLOWEST_REFUSAL_S = 5.0
LARGEST_REFUSAL_BYTES = 1 << 30
LONGEST_S = 60  # a try is cut off there; it hung, or was asked for that much work


@dataclass(frozen=True)
class Outcome:
    """What a try ended with.

    Attributes:
        code: the exit code; -1 where it was cut off.
        lines: what it wrote to stderr as errors, one a line.
        seconds: CPU time of this process.
        peak_bytes: largest growth of resident memory meanwhile; None where the system does not say.
    """

    code: int
    lines: tuple[str, ...]
    seconds: float
    peak_bytes: int | None
    stdout: str = ""


class CutOff(KeyboardInterrupt):
    """A try took too long."""


def run(arguments: list[str], folder: Path) -> Outcome:
    """Run the command line in this process, in a folder."""
    from compresskit.cli import main as command

    out, err = io.StringIO(), io.StringIO()
    started, before = time.process_time(), _reset_peak()
    code: int | None = None
    with contextlib.chdir(folder), _deadline(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        saved, sys.argv = sys.argv, ["compresskit", *arguments]
        try:
            command.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            sys.argv = saved
    lines = tuple(line for line in err.getvalue().splitlines() if line.startswith("compresskit: "))
    peak = _peak()
    return Outcome(
        {None: 0, 130: -1}.get(code, code), lines, time.process_time() - started,
        None if peak is None or before is None else max(peak - before, 0), out.getvalue(),
    )  # fmt: skip


def problem(outcome: Outcome) -> str:
    """What is wrong with an outcome; empty where nothing is."""
    if outcome.code == -1:
        return f"cut off after {LONGEST_S} s"
    if outcome.code not in (0, 2, 3):
        return f"rc {outcome.code}"
    if outcome.code == 2 and not outcome.lines:
        return "refused without a word"
    if outcome.code == 2 and (outcome.seconds > SLOWEST_REFUSAL_S or (outcome.peak_bytes or 0) > LARGEST_REFUSAL_BYTES):
        return f"refused after {outcome.seconds:.1f} s and {(outcome.peak_bytes or 0) / 2**20:.0f} MiB"
    if any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for line in outcome.lines for character in line):
        return "control characters in an error line"
    return ""


@contextlib.contextmanager
def _deadline():
    def end(*_: object) -> None:
        raise CutOff

    old = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def _reset_peak() -> int | None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _peak()


def _peak() -> int | None:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(text.split("VmHWM:")[1].split()[0]) * 1024
