"""The runtime that a file's format is made for."""

from __future__ import annotations

from torch import nn

from ..tables import EXPORTERS, RUNTIMES
from .exported import Exported


def auto(exported: Exported) -> nn.Module:
    """The runtime of the format whose files have the suffix of this one; eager PyTorch where none has."""
    rows = (row.attributes for row in EXPORTERS.values())
    runtime = next((row["runtime"] for row in rows if row.get("suffix") == exported.path.suffix), "eager")
    return RUNTIMES.load(runtime)(exported)
