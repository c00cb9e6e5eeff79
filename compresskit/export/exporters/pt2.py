"""torch.export's own archives."""

from __future__ import annotations

from pathlib import Path

import torch

from ..options import ExportOptions


def pt2(program: torch.export.ExportedProgram, path: Path, options: ExportOptions) -> list[str]:
    """Write an exported program as `.pt2`."""
    torch.export.save(program, str(path))
    return []
