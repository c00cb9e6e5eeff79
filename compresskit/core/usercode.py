"""Running code that the user named: an importable module or a Python file. Nothing else is ever imported by name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from .errors import InputError, nearest


def import_attribute(module: str, name: str) -> Any:
    """An attribute of an importable module that the user named; the current folder counts as importable."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"cannot import {module!r}: {error}") from error
    return _attribute(loaded, name, module)


def file_attribute(path: str, name: str) -> Any:
    """An attribute of a Python file that the user named."""
    spec = importlib.util.spec_from_file_location(f"_compresskit_{Path(path).stem}", path)
    if spec is None or not Path(path).is_file():
        raise InputError(f"{path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling of workers look modules up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"{path!r} raised {type(error).__name__} while being read: {error}") from error
    return _attribute(module, name, path)


def _attribute(module: Any, name: str, where: str) -> Any:
    if not hasattr(module, name):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{where!r} has no {name!r}{nearest(name, names)}")
    return getattr(module, name)
