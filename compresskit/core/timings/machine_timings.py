"""What was timed on this machine, kept for later runs, so that the same command decides alike each time.

Times on a busy machine scatter by more than what separates two choices. A time that decided once therefore stays what
this machine takes for that layer, until it is measured afresh.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from .decisions import label

#: folder of the record in the place of the user's cache; empty keeps none
VARIABLE = "COMPRESSKIT_CACHE"
_LARGEST_BYTES = 16 << 20  # a longer record is begun anew


class MachineTimings:
    """Values by name in a file of lines, to which several runs may add at a time.

    Args:
        folder: where the file lies; made when the first value is kept.
        place: what the times depend on beside their names: processor, threads, versions.
        fresh: whether what is known already is passed over, and replaced by what is measured now.
    """

    def __init__(self, folder: Path, place: Mapping[str, Any], *, fresh: bool = False):
        self.path = folder / f"timings-{label(dict(place))}.jsonl"
        self._fresh = fresh

    @cached_property
    def _known(self) -> dict[str, Any]:
        """Read when the first value is asked for: most steps time nothing."""
        return {} if self._fresh else _read(self.path)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __getitem__(self, name: str) -> Any:
        return self._known[name]

    def keep(self, name: str, value: Any) -> None:
        """Remember a value; where the folder cannot be written, this run alone remembers it."""
        self._known[name] = value
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file() and self.path.stat().st_size > _LARGEST_BYTES:
                self.path.unlink()
            with open(self.path, "ab", buffering=0) as file:  # one write a line, which others cannot fall between
                file.write((json.dumps([name, value]) + "\n").encode())
        except OSError:
            return


def cache_folder() -> Path | None:
    """Where this user's record lies; None where the variable is empty or the user has no home."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "compresskit"
    except RuntimeError:
        return None


def _read(path: Path) -> dict[str, Any]:
    """The values in a file; lines that are no pair of a name and a value are passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError:
        return {}
    found: dict[str, Any] = {}
    for line in lines:
        try:
            name, value = json.loads(line)
        except (ValueError, TypeError):
            continue
        if isinstance(name, str):
            found[name] = value
    return found
