"""The number types in which a transformers folder stores its weights, and a model loaded in just these."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import reduce
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ...core.errors import InputError
from ...core.tensors.dtypes import FLOATS

_OF_CODE = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def stored_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """Name -> number type of every floating tensor in a folder's safetensors files; only their headers are read.

    Raises:
        InputError: if a file is damaged or missing.
    """
    found: dict[str, torch.dtype] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt") as file:
                codes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise InputError(f"weights file {str(path)!r} is damaged or truncated: {error}") from error
        found |= {name: _OF_CODE[code] for name, code in codes.items() if code in _OF_CODE}
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's weights.

    Raises:
        InputError: if the index of a sharded model is damaged.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        try:
            return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{str(index)!r} is damaged: {error}") from error
    return sorted(folder.glob("*.safetensors"))


def main_dtype(stored: Mapping[str, torch.dtype]) -> torch.dtype | None:
    """The number type of most tensors; None where there are none."""
    return Counter(stored.values()).most_common(1)[0][0] if stored else None


def loading_dtype(stored: Mapping[str, torch.dtype]) -> torch.dtype:
    """A number type that holds every stored tensor exactly."""
    return reduce(torch.promote_types, stored.values()) if stored else torch.float32


def restore_dtypes(module: nn.Module, stored: Mapping[str, torch.dtype]) -> None:
    """Give a model that was loaded in `loading_dtype` the number types of the file, tensor by tensor.

    Tensors under another name in the file (converted while loading) get the type of most.
    """
    if len(set(stored.values())) < 2:
        return
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    persistent = module.state_dict(keep_vars=True)
    for name, tensor in persistent.items():
        if tensor.dtype in FLOATS:
            names = (name, prefix + name, name.removeprefix(prefix))
            dtype = next((stored[known] for known in names if known in stored), main_dtype(stored))
            tensor.data = tensor.data.to(dtype)
