"""torch.export's own archives."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ...model.exported import DESCRIPTION_FILE
from ..options import ExportOptions
from .export_program import DESCRIPTION


def pt2(program: torch.export.ExportedProgram, path: Path, options: ExportOptions) -> list[str]:
    """Write an exported program as `.pt2`, with what it says of itself beside the graph."""
    about = json.dumps(program.graph_module.meta.get(DESCRIPTION, {}))
    torch.export.save(program, str(path), extra_files={DESCRIPTION_FILE: about})
    return []
