"""Files of weights, told apart by what they hold rather than by their suffix, read into tensors of dotted names."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
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
from .plain_pickle import safe_globals

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_FOLDER_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "adapter_model.safetensors",
)
_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
_MOST_CONTAINERS = 200_000  # nested in a file; more is a file made to blow up
_HOLDERS = (Tensor, np.ndarray, Mapping, list, tuple)
_DEEPEST = 100  # nested containers
_SAVE = "save model.state_dict() instead"


def split_key(string: str) -> tuple[Path, str]:
    """`FILE#KEY` as a path and a dotted key; a file whose own name holds a # needs no key."""
    path, mark, key = string.rpartition("#")
    if mark and not Path(string).exists():
        return Path(path), key
    return Path(string), ""


def weight_files(string: str | Path) -> list[Path]:
    """The files that a weights string reads: the shards where it names several."""
    path = split_key(str(string))[0]
    path = _index_of(path)
    if path.name.endswith(".index.json") and path.is_file():
        return [path, *(path.parent / name for name in sorted(set(_weight_map(path).values())))]
    return [path]


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


def _index_of(path: Path) -> Path:
    """A folder's index or only file; other paths as they are."""
    if not path.is_dir():
        return path
    for name in (*_INDEXES, *_FOLDER_FILES):
        if (path / name).is_file() and not (path / "manifest.json").is_file():
            return path / name
    found = sorted(entry.name for entry in path.iterdir() if entry.suffix in _SUFFIXES)
    if (path / "manifest.json").is_file():
        hint = "name it as the model, or give a file of plain weights"
    elif (path / ".metadata").is_file():
        tool = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
        hint = f"a distributed checkpoint; convert it with `{tool} {path} weights.pt`"
    elif found:
        hint = f"name the file in it, e.g. {str(path / found[0])!r}"
    else:
        hint = f"it holds none of {', '.join(_INDEXES + _FOLDER_FILES[:2])}"
    raise InputError(f"weights {str(path)!r} is a directory: {hint}")


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        if path.exists():
            raise InputError(f"weights {str(path)!r} is not a regular file")
        if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
            raise InputError(f"weights {str(path)!r}: nothing is downloaded here; fetch it first and name the file")
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"weights file {str(path)!r} does not exist{nearest(path.name, siblings) if siblings else ''}")
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"weights file {str(path)!r} cannot be read: {error.strerror}") from error
    if _is_safetensors(head, path):
        return read_safetensors(path)
    if found := _foreign(head, path):
        raise InputError(f"weights file {str(path)!r} {found}")
    is_torch = zipfile.is_zipfile(path) or head[:1] == b"\x80"
    if path.suffix == ".safetensors" and not is_torch:
        return read_safetensors(path)
    if not is_torch and path.suffix not in _SUFFIXES:
        raise InputError(
            f"weights file {str(path)!r}: unknown kind {path.suffix!r}; use .safetensors, .pt, .pth, .ckpt or .bin"
        )
    return flatten(_load_torch(path), path)


def _is_safetensors(head: bytes, path: Path) -> bool:
    """Eight bytes of header length, then a JSON object."""
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _foreign(head: bytes, path: Path) -> str:
    """What a file is that holds no readable weights, and what to do; empty if it may hold some."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    magics = (
        (b"version https://git-lfs", "is a git-lfs pointer, not the weights; run `git lfs pull` in its repository"),
        (b"<!doctype html", "is an HTML page, so its download failed; fetch the file itself"),
        (b"<html", "is an HTML page, so its download failed; fetch the file itself"),
        (b"<?xml", "is an XML page, so its download failed; fetch the file itself"),
        (b"gguf", "is a GGUF file of quantized weights; name the float weights that it was made from"),
        (b"\x89hdf", f"is an HDF5 (Keras) file; convert it to PyTorch and {_SAVE}"),
        (b"\x93numpy", "is a numpy array; save a state_dict of named tensors instead"),
        (b"\x1f\x8b", "is a gzip archive; unpack it and name the weights in it"),
        (b"bzh", "is a bzip2 archive; unpack it and name the weights in it"),
        (b"\xfd7zxz", "is an xz archive; unpack it and name the weights in it"),
        (b"7z\xbc\xaf", "is a 7z archive; unpack it and name the weights in it"),
        (b"rar!", "is a rar archive; unpack it and name the weights in it"),
        (b"\x28\xb5\x2f\xfd", "is a zstd archive; unpack it and name the weights in it"),
        (b"{", "is a JSON file; name the weights themselves"),
    )
    if not head:
        return "is empty: 0 bytes; its copy or download failed"
    for magic, message in magics:
        if text.startswith(magic):
            return message
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and b"pytorch" in head[:64]):
        return f"is an ONNX graph, which holds no named PyTorch weights; {_SAVE}"
    if head[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model; {_SAVE}"
    if head[257:262] == b"ustar" and not zipfile.is_zipfile(path):
        return "is a tar archive; unpack it and name the weights in it"
    return _foreign_zip(path) if zipfile.is_zipfile(path) else ""


def _foreign_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return f"is damaged or truncated: {error}"
    inner = {name.partition("/")[2] or name for name in names} | set(names)
    if "constants.pkl" in inner:
        return "is a TorchScript archive; save torch.jit.load(FILE).state_dict() with torch.save and name that"
    if inner & {"archive_format", "serialized_exported_program.json"} or any("models/model.json" in n for n in names):
        return f"is an exported program (.pt2): name it as the model, or {_SAVE}"
    if "data.pkl" in inner:
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "is a numpy .npz archive; save a state_dict of named tensors instead"
    held = [name for name in names if name.endswith(_SUFFIXES)]
    return f"is a zip archive; unpack it and name {held[0]!r}" if held else "is a zip archive that holds no weights"


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
            return f"is not a torch file, or holds more than tensors, which is never loaded ({reason}); {_SAVE}"
        return f"holds more than tensors, which is never loaded ({reason}); {_SAVE}"
    if any(name.startswith("torch.nn.modules.") for name in {found[1], *_named_in(path)}):
        return f"is a whole pickled module ({found[1]}) and holds more than tensors, which is never loaded; {_SAVE}"
    return f"holds more than tensors, which is never loaded (it names {found[1]}); {_SAVE}"


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
            raise InputError(f"weights file {str(path)!r} nests its containers without end; {_SAVE}")
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        held = [(str(name), inner) for name, inner in items if isinstance(inner, _HOLDERS)]
        stack += [(f"{prefix}.{name}" if prefix else name, inner, depth + 1) for name, inner in reversed(held)]
    if isinstance(content, Tensor) or not isinstance(content, Mapping | list | tuple):
        raise InputError(
            f"weights file {str(path)!r} holds a {type(content).__name__}, not a mapping of tensors; {_SAVE}"
        )
    if not tensors:
        raise InputError(f"weights file {str(path)!r} holds no tensors; {_SAVE}")
    return tensors


def _as_tensor(value: Tensor | np.ndarray) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.detach()
    return torch.from_numpy(value.copy()) if value.dtype.kind in "biufc" and value.dtype.isnative else None


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard of an index file; shards lie beside it and nowhere else."""
    try:
        content = json.loads(index.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"weights index {str(index)!r} is damaged: {error}") from error
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise InputError(f"weights index {str(index)!r} has no weight_map of tensor names and files")
    for name in found.values():
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
            raise InputError(f"weights index {str(index)!r}: shard {name!r} leaves its folder")
    return found


def _read_shards(index: Path) -> dict[str, Tensor]:
    places = _weight_map(index)
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        content = _read_file(index.parent / shard)
        absent = [name for name, place in places.items() if place == shard and name not in content]
        if absent:
            raise InputError(f"weights file {str(index.parent / shard)!r} lacks {absent[0]!r}, which its index names")
        tensors.update({name: content[name] for name, place in places.items() if place == shard})
    return tensors
