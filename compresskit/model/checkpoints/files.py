"""Files of weights, told apart by what they hold rather than by their suffix, read into tensors of dotted names."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...core.errors import InputError, first_line, nearest
from ...core.limits.safetensors_header import check_header
from .locations import SAVE, kind_of, split_key, weight_files, weight_map
from .plain_pickle import safe_globals

_MOST_CONTAINERS = 200_000  # nested in a file; more is a file made to blow up
_HOLDERS = (Tensor, np.ndarray, Mapping, list, tuple)
_DEEPEST = 100  # nested containers


def read_tensors(string: str | Path) -> dict[str, Tensor]:
    """Every tensor of a weights file, by the dotted path of keys that leads to it.

    Args:
        string: a file, a folder or index of shards, or `FILE#KEY` for one part of a file.
    Raises:
        InputError: naming what the file is, where it holds no weights that can be read safely.
    """
    path, key = split_key(str(string))
    first, *shards = weight_files(path)
    tensors = _read_shards(first) if shards else _read_file(first)
    if not key:
        return tensors
    inside = {name.removeprefix(f"{key}."): value for name, value in tensors.items() if name.startswith(f"{key}.")}
    if not inside:
        tops = sorted({".".join(name.split(".")[:2]) for name in tensors} | {name.split(".")[0] for name in tensors})
        raise InputError(f"weights file {str(path)!r} holds no tensors under {key!r}{nearest(key, tops)}")
    return inside


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, its header checked first."""
    check_header(path, f"weights file {str(path)!r}")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise InputError(f"weights file {str(path)!r} is damaged or truncated: {error}") from error


def _read_file(path: Path) -> dict[str, Tensor]:
    if kind_of(path) == "safetensors":
        return read_safetensors(path)
    return flatten(_load_torch(path), path)


def _load_torch(path: Path) -> Any:
    try:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # on protocols and deprecated storages, nothing that a user can act on
            stack.enter_context(torch.serialization.safe_globals(safe_globals()))
            file = stack.enter_context(open(path, "rb"))  # not the path: torch goes by its suffix
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"weights file {str(path)!r} {_refusal(path, str(error))}") from error
    except Exception as error:  # a hostile or cut file may raise anything; nothing of it has run
        raise InputError(f"weights file {str(path)!r} is damaged or truncated: {first_line(error)}") from error


def _refusal(path: Path, message: str) -> str:
    """Why the unpickler stopped: a whole module, another class, or no torch file at all."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if not found:
        reason = message.split("\n", 1)[0].split(". ", 1)[0]
        if "Unsupported operand" in message or "Invalid magic" in message:
            return f"is not a torch file, or holds more than tensors, which is never loaded ({reason}); {SAVE}"
        return f"holds more than tensors, which is never loaded ({reason}); {SAVE}"
    if any(name.startswith("torch.nn.modules.") for name in {found[1], *_named_in(path)}):
        return f"is a whole pickled module ({found[1]}) and holds more than tensors, which is never loaded; {SAVE}"
    return f"holds more than tensors, which is never loaded (it names {found[1]}); {SAVE}"


def _named_in(path: Path) -> list[str]:
    """Everything that a torch file names and that is not let through."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # files of the form before torch 1.6 cannot be listed; the error's own name is enough
        return []


def flatten(content: Any, path: Path) -> dict[str, Tensor]:
    """Tensors of nested mappings and lists, by their dotted paths; numpy arrays count as tensors.

    Raises:
        InputError: if there are none, or the nesting is endless.
    """
    tensors: dict[str, Tensor] = {}
    stack: list[tuple[str, Any, int]] = [("", content, 0)] if isinstance(content, _HOLDERS) else []
    visited = 0
    while stack:
        prefix, value, depth = stack.pop()
        if isinstance(value, Tensor | np.ndarray):
            tensor = _as_tensor(value)
            if tensor is not None:
                tensors.setdefault(prefix or "0", tensor)
            continue
        visited += 1
        if visited > _MOST_CONTAINERS or depth > _DEEPEST:
            raise InputError(f"weights file {str(path)!r} nests its containers without end; {SAVE}")
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        held = [(str(name), inner) for name, inner in items if isinstance(inner, _HOLDERS)]
        stack += [(f"{prefix}.{name}" if prefix else name, inner, depth + 1) for name, inner in reversed(held)]
    if isinstance(content, Tensor) or not isinstance(content, Mapping | list | tuple):
        raise InputError(
            f"weights file {str(path)!r} holds a {type(content).__name__}, not a mapping of tensors; {SAVE}"
        )
    if not tensors:
        raise InputError(f"weights file {str(path)!r} holds no tensors; {SAVE}")
    return tensors


def _as_tensor(value: Tensor | np.ndarray) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.detach()
    return torch.from_numpy(value.copy()) if value.dtype.kind in "biufc" and value.dtype.isnative else None


def _read_shards(index: Path) -> dict[str, Tensor]:
    places = weight_map(index)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        content = _read_file(index.parent / shard)
        absent = [name for name, place in places.items() if place == shard and name not in content]
        if absent:
            raise InputError(f"weights file {str(index.parent / shard)!r} lacks {absent[0]!r}, which its index names")
        tensors.update({name: content[name] for name, place in places.items() if place == shard})
    return tensors
