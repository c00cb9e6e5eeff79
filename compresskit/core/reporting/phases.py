"""Phases of a run: which one is under way, how far it is, and what each took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass
class Phase:
    """One phase under way.

    Attributes:
        name: what is done, a verb.
        total: units of work; 0 where they are not counted.
        done: units that are done.
        text: what the last unit says.
        began: when, by the monotonic clock.
        first: units that were done when it began.
    """

    name: str
    total: int = 0
    done: int = 0
    text: str = ""
    began: float = field(default_factory=time.monotonic)
    first: int = 0

    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def seconds_left(self) -> float | None:
        """Seconds that it takes on, by its pace so far; None where that is not known."""
        own = self.done - self.first
        return self.seconds() * (self.total - self.done) / own if self.total and own > 0 else None


@runtime_checkable
class Listener(Protocol):
    """What is told of phases."""

    def changed(self, phases: list[Phase]) -> None:
        """A phase began, ended or advanced; the one under way is the last of the list."""
        ...


class Timeline:
    """What the phases of a run took, each without those inside of it.

    Args:
        listener: is told of each change.
    """

    def __init__(self, listener: Listener | None = None):
        self.listener = listener
        self.seconds: dict[str, float] = {}
        self.open: list[Phase] = []
        self._since = time.monotonic()

    def turn(self) -> None:
        """Count the time since the last change to the phase that is under way."""
        now = time.monotonic()
        if self.open:
            name = self.open[-1].name
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def tell(self) -> None:
        """Tell the listener."""
        if self.listener is not None:
            self.listener.changed(self.open)

    def taken(self) -> dict[str, float]:
        """Seconds of each phase up to now."""
        self.turn()
        return {name: round(seconds, 3) for name, seconds in self.seconds.items()}


_timelines: list[Timeline] = []


@contextmanager
def timeline(listener: Listener | None = None) -> Iterator[Timeline]:
    """Count phases while open."""
    _timelines.append(Timeline(listener))
    try:
        yield _timelines[-1]
    finally:
        _timelines.pop()


def _nothing(text: str = "") -> None:
    """What counts where no timeline does."""


@contextmanager
def phase(name: str, total: int = 0, done: int = 0) -> Iterator[Callable[[str], None]]:
    """One phase, as a block or as a decorator; nothing happens where no timeline counts.

    Args:
        name: what is done: check, baseline, calibrate, choose, cut, refit, reconstruct, recover, train, measure, save.
        total: units of work.
        done: those that an earlier run did.
    Yields:
        a function that counts one unit; its text says something of it.
    """
    if not _timelines:
        yield _nothing
        return
    here = _timelines[-1]
    here.turn()
    own = Phase(name, total, done, first=done)
    here.open.append(own)
    here.tell()

    def advance(text: str = "") -> None:
        own.done, own.text = own.done + 1, text
        here.tell()

    try:
        yield advance
    finally:
        here.turn()
        here.open.remove(own)
        here.tell()


def advanced(text: str = "") -> None:
    """Count one unit of the phase under way."""
    if _timelines and _timelines[-1].open:
        phase = _timelines[-1].open[-1]
        phase.done, phase.text = phase.done + 1, text
        _timelines[-1].tell()


def counted(done: int, total: int, text: str = "") -> None:
    """Say how many units of the phase under way are done, where it may go through several rounds of them."""
    if _timelines and _timelines[-1].open:
        phase = _timelines[-1].open[-1]
        if done <= phase.done or total != phase.total:  # another round: its pace is its own
            phase.began, phase.first = time.monotonic(), done
        phase.done, phase.total, phase.text = done, total, text
        _timelines[-1].tell()


def under_way() -> str | None:
    """The name of the phase under way."""
    return _timelines[-1].open[-1].name if _timelines and _timelines[-1].open else None


def spent(seconds: dict[str, float]) -> str:
    """What the phases took as a line: the longest first, those of less than a second left out."""
    whole = sum(seconds.values())
    longest = sorted((one for one in seconds.items() if one[1] >= 1), key=lambda one: -one[1])
    parts = ", ".join(f"{name} {duration(own)}" for name, own in longest)
    return f"took {duration(whole)}{': ' if parts else ''}{parts}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
