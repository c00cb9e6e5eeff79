"""Measured times that decide what a model becomes: recorded once, and taken from the record ever after.

Timings scatter, so that a step which chooses by them may choose otherwise the next time. A step therefore asks this
record before it measures. The record lies in the step's work folder, where a resume finds it, and in the report of
what was made, from where the option `timings` replays it. What this machine measured for an earlier run decides as well
(`core.timings.machine_timings`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from .. import distributed

Value = TypeVar("Value")


class Known(Protocol):
    """What was measured by earlier runs."""

    def __contains__(self, name: str) -> bool: ...

    def __getitem__(self, name: str) -> Any: ...

    def keep(self, name: str, value: Any) -> None:
        """Remember a value for later runs."""


class Decisions:
    """Values by name: measured when a name is first asked for, and remembered.

    Args:
        path: file to keep them in, a line each; None keeps them in memory alone.
        given: values of an earlier run, which are taken in the place of new measurements.
        machine: what this machine measured before, which comes next; new measurements are kept there.
    """

    def __init__(
        self, path: Path | None = None, given: Mapping[str, Any] | None = None, machine: Known | None = None
    ):  # fmt: skip
        self._machine = machine
        self._path = path
        self._given = dict(given or {})
        self._kept = _read(path) if path is not None else {}
        self.used: dict[str, Any] = {}

    def __call__(
        self, name: str, measure: Callable[[], Value], *, doubted: Callable[[Value], bool] | None = None
    ) -> Value:
        """The value of a name.

        Args:
            name: says what is measured, on what; equal names have equal values.
            measure: gives the value, as JSON can hold it; called only if the value is not known.
            doubted: whether a time that this machine took in an earlier run may only be so long because the machine was
                busy; it is measured again then, and the shorter one is kept.
        """
        if name in self.used:
            known: Value = self.used[name]
            return known
        value: Value
        if name in self._kept:
            value = self._kept[name]
        elif name in self._given:
            value = self._given[name]
        else:
            value = self._known_or_measured(name, measure, doubted)
            self._keep(name, value)
        self.used[name] = value
        return value

    def kept_in(self, path: Path) -> Decisions:
        """The same with a file to keep values in."""
        return Decisions(path, self._given, self._machine)

    def _known_or_measured(self, name: str, measure: Callable[[], Any], doubted: Callable[[Any], bool] | None) -> Any:
        # all processes of a torchrun build the same model, so they must see the same times
        machine = self._machine
        before = distributed.from_main([machine[name]] if machine is not None and name in machine else [])
        if before and not (doubted is not None and doubted(before[0])):
            return before[0]
        value = min([*before, distributed.from_main(json.loads(json.dumps(measure())))])
        if machine is not None and distributed.is_main():
            machine.keep(name, value)
        return value

    def _keep(self, name: str, value: Any) -> None:
        if self._path is None or not distributed.is_main():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a") as file:
            file.write(json.dumps([name, value]) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> dict[str, Any]:
    """The values in a file; a line that a kill cut short is removed, so that the next one does not join it."""
    if not path.is_file():
        return {}
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return dict(json.loads(line) for line in whole.splitlines())


def label(*parts: Any) -> str:
    """A short word that changes with any of its parts, for names that would be long otherwise."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:12]
