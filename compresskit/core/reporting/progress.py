"""Lines and bars of progress, on one console."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Literal

from rich.console import Console
from rich.errors import LiveError
from rich.progress import BarColumn, Progress, Task, TextColumn
from rich.text import Text

from .phases import Phase, duration
from .report import say
from .results import write_result

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")
_QUIET_SECONDS = 60.0  # between lines that say how far a phase is, where no bar is drawn
_EVENT_SECONDS = 1.0  # between events that say it


def stderr_console() -> Console:
    """The console that progress and tables go to."""
    return Console(stderr=True, emoji=False, width=None if sys.stderr.isatty() else 160)


def stderr_log() -> Callable[[str], None]:
    """A function that prints one line of progress to stderr; silent in the other processes of a torchrun."""
    if os.environ.get("RANK", "0") != "0":
        return lambda line: None
    return Reporter()


class Reporter:
    """Prints lines of progress, and under them, on a terminal, a bar of the phase under way.

    Where stderr is no terminal, a line a minute says how far the phase is.

    Args:
        level: the least that is printed: debug (phases too), info, warning, or error: nothing here.
        events: print each line and phase as a JSON object on stdout instead.
        console: of stderr by default.
        quiet_seconds: between the lines that stand for a bar.
    """

    def __init__(
        self, level: Level = "info", *, events: bool = False, console: Console | None = None,
        quiet_seconds: float = _QUIET_SECONDS,
    ):  # fmt: skip
        self._level, self._events = LEVELS.index(level), events
        self._console = console or stderr_console()
        self._quiet_seconds = quiet_seconds
        self._bar: Progress | None = None
        self._stop: threading.Event | None = None
        self._names: list[str] = []
        self._event_at = 0.0

    def __call__(self, line: str) -> None:
        """Print a line; one that starts with `warning:` is a warning."""
        warning = line.startswith("warning:")
        if self._events:
            self._event("warning" if warning else "line", text=line.removeprefix("warning: "))
        elif self._level <= LEVELS.index("warning" if warning else "info"):
            self._print(line)

    def changed(self, phases: list[Phase]) -> None:
        """A phase began, ended or advanced."""
        names = [one.name for one in phases]
        if names != self._names:
            self._say_turn(names, phases)
            self._names = names
        elif self._events and phases and time.monotonic() - self._event_at >= _EVENT_SECONDS:
            self._say_how_far(phases[-1])
        if self._level > LEVELS.index("info") or self._events:
            return
        if self._console.is_terminal:
            self._draw(phases)
        else:
            self._watch(phases)

    # -- events --------------------------------------------------------------------------------------------------

    def _event(self, kind: str, **content: object) -> None:
        write_result(json.dumps({"event": kind, **content}))

    def _say_turn(self, names: list[str], phases: list[Phase]) -> None:
        began = len(names) > len(self._names)
        name = names[-1] if began else self._names[-1]
        if self._events:
            self._event(
                "phase", name=name, state="begin" if began else "end", total=phases[-1].total if began else None
            )
        elif self._level == 0:
            self._print(f"phase {name} {'begins' if began else 'ends'}")

    def _say_how_far(self, phase: Phase) -> None:
        left = phase.seconds_left()
        self._event_at = time.monotonic()
        self._event("progress", phase=phase.name, done=phase.done, total=phase.total or None,
                    seconds_left=None if left is None else round(left, 1), text=phase.text)  # fmt: skip

    # -- people --------------------------------------------------------------------------------------------------

    def _print(self, line: str) -> None:
        console = self._bar.console if self._bar is not None else self._console
        say(console, line)

    def _draw(self, phases: list[Phase]) -> None:
        if not phases:
            if self._bar is not None:
                self._bar.stop()
            self._bar = None
            return
        phase = phases[-1]
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), _HowFar("{task.description}"),
                console=self._console, transient=True,
            )  # fmt: skip
            self._bar.add_task(phase.name, total=None, phase=phase)
            try:
                self._bar.start()
            except LiveError:  # somebody else's bar
                self._bar.disable = True
        self._bar.update(
            self._bar.task_ids[0], description=phase.name, total=phase.total or None, completed=phase.done, phase=phase
        )

    def _watch(self, phases: list[Phase]) -> None:
        """A line a minute from a thread of its own, as long as any phase is under way."""
        if not phases and self._stop is not None:
            self._stop.set()
            self._stop = None
        elif phases and self._stop is None:
            self._stop = threading.Event()
            threading.Thread(target=self._say_each_minute, args=(phases, self._stop), daemon=True).start()

    def _say_each_minute(self, phases: list[Phase], stop: threading.Event) -> None:
        while not stop.wait(self._quiet_seconds):
            for phase in phases[-1:]:
                self._print(f"{phase.name}: {how_far(phase)}")


class _HowFar(TextColumn):
    """What a phase has done, and what is left of it."""

    def render(self, task: Task) -> Text:
        return Text(how_far(task.fields["phase"]), no_wrap=True, overflow="ellipsis")


def how_far(phase: Phase) -> str:
    """A phase's state in words: `450 of 1,200, 3 min left, loss 0.213`."""
    left = phase.seconds_left()
    parts = [f"{phase.done:,} of {phase.total:,}"] if phase.total else []
    parts.append(f"{duration(phase.seconds())} so far" if left is None else f"{duration(left)} left")
    return ", ".join([*parts, *([phase.text] if phase.text else [])])
