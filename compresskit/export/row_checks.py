"""What is wrong with what a user's own row of export's registries returned; "" where nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn


def runner(found: Any, exported: Any) -> str:
    """A runtime returns a module."""
    return "" if isinstance(found, nn.Module) else f"must return an nn.Module, and returned {type(found).__name__}"


def notes(found: Any, program: Any, path: Path, options: Any) -> str:
    """An exporter writes its file, and returns lines or nothing."""
    if not path.is_file() and not (path.is_dir() and any(path.iterdir())):
        return f"must write the file or folder {str(path)!r}, and it is not there"
    if found is None or (isinstance(found, list | tuple) and all(isinstance(line, str) for line in found)):
        return ""
    return f"must return a list of notes or None, and returned {type(found).__name__}"
