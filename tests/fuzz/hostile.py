"""Hostile inputs by the thousand: each kind makes files in a folder and the command line that reads them.

Every try is decided by its kind and number alone, so a failure is named by the two. `benchmarks/house/fuzz.py` runs
many, `test_fuzz.py` some.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from . import artifact_kinds, command_kinds, data_kinds, recipe_kinds  # noqa: F401 (they fill KINDS)
from .execution import Outcome, problem, run
from .good_inputs import prepare
from .kinds import KINDS

__all__ = ["KINDS", "attempt", "prepare", "problem"]


def attempt(name: str, number: int, good: Path, scratch: Path) -> tuple[list[str], Outcome]:
    """One try: its arguments and what it ended with."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    arguments = KINDS[name](random.Random(f"{name} {number}"), good, scratch)
    return arguments, run(arguments, scratch)
