"""Reading weight files: safetensors, and torch files with weights_only and no fallback."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import InputError, nearest

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN = 3  # names listed in an error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors`, `.pt` or `.pth` file, common wrappers undone.

    Raises:
        InputError: if the file is missing, truncated, of another kind, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"weights file {str(path)!r} does not exist{nearest(path.name, siblings) if siblings else ''}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return _read_torch(path)
    raise InputError(f"weights file {str(path)!r}: unknown kind {path.suffix!r}; use .safetensors, .pt or .pth")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"weights file {str(path)!r} is damaged or truncated: {error}") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0]
        raise InputError(
            f"weights file {str(path)!r} holds more than tensors, which is never loaded ({reason}); "
            "save model.state_dict() instead"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"weights file {str(path)!r} is damaged or truncated: {str(error).splitlines()[0]}") from error
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        inner = next(
            (
                content[key]
                for key in _WRAPPERS
                if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)
            ),
            None,
        )
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise InputError(f"weights file {str(path)!r} holds a {type(content).__name__}, not a mapping of tensors")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"weights file {str(path)!r} holds no tensors")
    return tensors


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a module, strictly; data-parallel and compile prefixes are undone.

    Args:
        module: receives the weights.
        tensors: name -> tensor.
        where: what to call the tensors' origin in errors.
    Raises:
        InputError: on missing, unexpected, misshapen or non-finite tensors.
    """
    expected = module.state_dict()
    tensors = dict(tensors)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors) and not any(name.startswith(prefix) for name in expected):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    unexpected = sorted(set(tensors) - set(expected))
    missing = sorted(set(expected) - set(tensors) - {n for n in expected if n.endswith("num_batches_tracked")})
    aliases = _aliases(module)
    missing = [name for name in missing if not (aliases.get(name, set()) & set(tensors))]
    if missing or unexpected:
        parts = [
            f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        hint = nearest(unexpected[0], missing) if missing and unexpected else ""
        raise InputError(f"{where} does not fit the model: {' and '.join(parts)}{hint if 'mean' in hint else ''}")
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise InputError(
                f"{where}: {name} has shape {list(value.shape)}, the model expects {list(expected[name].shape)}"
            )
    check_finite(tensors, where, {name for name, _ in module.named_buffers(remove_duplicate=False)})
    module.load_state_dict(tensors, strict=False)


def check_finite(tensors: Mapping[str, Tensor], where: str, buffers: Collection[str] = ()) -> None:
    """Refuse NaN and infinity in weights.

    Args:
        tensors: name -> tensor, real or complex.
        where: what to call the tensors' origin in errors.
        buffers: names of buffers, which may hold infinity (an attention mask does) but not NaN.
    Raises:
        InputError: naming the first tensor that holds NaN or infinity.
    """
    for name, value in tensors.items():
        if value.device.type == "meta" or not (value.is_floating_point() or value.is_complex()):
            continue
        values = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
        if values.element_size() == 1:  # the 8-bit floats have few operators
            values = values.float()
        wrong = torch.isnan(values) if name in buffers else ~torch.isfinite(values)
        if bool(wrong.any()):
            raise InputError(f"{where}: {name} holds NaN or infinite values")


def check_module(module: nn.Module, where: str) -> None:
    """`check_finite` for the parameters and buffers of a module."""
    buffers = dict(module.named_buffers())
    check_finite({**dict(module.named_parameters()), **buffers}, where, buffers)


def _aliases(module: nn.Module) -> dict[str, set[str]]:
    """Names that share one parameter: name -> the other names."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return {name: set(names) - {name} for names in groups.values() if len(names) > 1 for name in names}
