"""The table of kinds of hostile input."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

SMALL = "builtin:digits_cnn_small"

Kind = Callable[[random.Random, Path, Path], list[str]]  # (draw, good inputs, scratch folder) -> arguments
KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    """Add a kind by its function's name."""
    KINDS[function.__name__] = function
    return function
