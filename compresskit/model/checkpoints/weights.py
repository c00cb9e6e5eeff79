"""Weights of a model: read from whatever file they are kept in, matched to the model's names, copied in strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.errors import InputError, nearest
from ...core.tensors.dtypes import adopt_dtypes
from .files import read_safetensors, read_tensors
from .locations import split_key, weight_files
from .matching import Match, choose, describe, find_matches

__all__ = [
    "check_finite",
    "check_module",
    "fits",
    "load_into",
    "read_safetensors",
    "read_weights",
    "sha256_of",
    "sha256_of_weights",
]

_SHOWN = 3  # names listed in an error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_weights(string: str) -> str | None:
    """SHA-256 of all files that a weights string reads, and of its key; None where one of them is not there."""
    key = split_key(string)[1]
    try:
        files = weight_files(string)
    except InputError:
        return None
    if not all(path.is_file() for path in files):
        return None
    return hashlib.sha256("".join([key, *map(sha256_of, files)]).encode()).hexdigest()


def read_weights(string: str | Path) -> dict[str, Tensor]:
    """Every tensor of a weights file by the dotted path of keys that leads to it; `load_into` finds the model's.

    Args:
        string: a torch or safetensors file, a folder or index of shards, or `FILE#KEY` for one part of a file.
    Raises:
        InputError: if the file is missing, truncated, of another kind, or holds anything but plain data.
    """
    return read_tensors(string)


def fits(module: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint holds a module's whole state by the names that the module has now."""
    return find_matches(module, tensors)[0].is_full


@torch.no_grad()
def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> list[str]:
    """Find a module's weights among tensors and copy them in: all of them, or none.

    Nesting and prefixes are undone; what belongs to no layer of the model is left out.

    Args:
        module: receives the weights, and the types of their floats.
        tensors: dotted name -> tensor.
        where: what to call the tensors' origin in errors.
    Returns:
        Lines on what was taken and what was left out.
    Raises:
        InputError: on missing, unexpected, misshapen or non-finite tensors.
    """
    matches = find_matches(module, tensors)
    match = choose(matches, where)
    if match.missing or match.unexpected:
        raise InputError(f"{where} does not fit the model: {_misfit(match)}")
    expected = module.state_dict()
    for name, value in match.values.items():
        _check_kind(name, value, expected[name], where)
    check_finite(match.values, where, {name for name, _ in module.named_buffers(remove_duplicate=False)})
    lines = adopt_dtypes(module, match.values, where)
    try:
        module.load_state_dict(
            {name: value.reshape(expected[name].shape) for name, value in match.values.items()}, strict=False
        )
    except RuntimeError as error:
        raise InputError(f"{where} cannot be copied into the model: {' '.join(str(error).split())}") from error
    return describe(match, matches[1:], where) + lines


def _misfit(match: Match) -> str:
    parts = [
        f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for what, names in (("missing", match.missing), ("unexpected", match.unexpected))
        if names
    ]
    others = match.unexpected or [name for name in match.left_out if match.missing]
    hint = nearest(others[0], match.missing) if match.missing and others else ""
    mend = "name the model that these weights were trained in, with its --model-arg"
    return f"{' and '.join(parts)}{hint if 'mean' in hint else ''}; {mend}"


def _resized(value: Tensor, target: Tensor) -> str:
    """How to bring a model to the shape of a weight."""
    as_trained = "build the model as it was trained, e.g. "
    if value.dim() == target.dim() and value.shape[1:] == target.shape[1:]:
        return f"{as_trained}--model-arg num_classes={value.shape[0]} where this is its head"
    return f"{as_trained}with its --model-arg"


def _check_kind(name: str, value: Tensor, target: Tensor, where: str) -> None:
    """Shape, and numbers of a kind that the target can hold."""
    if value.shape != target.shape and not value.numel() == target.numel() == 1:
        wanted = f"the model expects {list(target.shape)}; {_resized(value, target)}"
        raise InputError(f"{where}: {name} has shape {list(value.shape)}, {wanted}")
    if value.is_meta:
        raise InputError(
            f"{where}: {name} is on the meta device and has no values; save the weights from a real device"
        )
    if value.is_quantized or value.layout != torch.strided:
        raise InputError(f"{where}: {name} is a quantized or sparse tensor; save its dense float values")
    if value.is_complex() and not target.is_complex():
        raise InputError(f"{where}: {name} is complex, the model expects {str(target.dtype).removeprefix('torch.')}")
    if target.is_floating_point() and not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise InputError(f"{where}: {name} holds {kind} numbers where the model has floats; name the float weights")


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
