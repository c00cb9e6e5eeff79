"""Which files a weights string names, and what each of them is by its first bytes. Imports no torch."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Literal

from ...core.errors import InputError, beside

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_FOLDER_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "adapter_model.safetensors",
)
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
SAVE = "save model.state_dict() instead"


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
        return [path, *(path.parent / name for name in sorted(set(weight_map(path).values())))]
    return [path]


def check_weights(string: str) -> None:
    """Refuse a weights string whose files are not there, or are no files of weights.

    Raises:
        InputError: naming what the file is, and how to get at its weights.
    """
    first, *shards = weight_files(string)
    for path in shards or [first]:
        kind_of(path)


def kind_of(path: Path) -> Literal["safetensors", "torch"]:
    """What a file of weights is, by what it holds rather than by its suffix.

    Raises:
        InputError: if it is not there, or is no file of weights.
    """
    if not path.is_file():
        if path.exists():
            raise InputError(f"weights {str(path)!r} is not a regular file")
        if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
            raise InputError(f"weights {str(path)!r}: nothing is downloaded here; fetch it first and name the file")
        raise InputError(f"weights file {str(path)!r} does not exist{beside(path)}")
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"weights file {str(path)!r} cannot be read: {error.strerror}") from error
    if _is_safetensors(head, path):
        return "safetensors"
    if found := _foreign(head, path):
        raise InputError(f"weights file {str(path)!r} {found}")
    is_torch = zipfile.is_zipfile(path) or head[:1] == b"\x80"
    if path.suffix == ".safetensors" and not is_torch:
        return "safetensors"
    if not is_torch and path.suffix not in SUFFIXES:
        raise InputError(
            f"weights file {str(path)!r}: unknown kind {path.suffix!r}; use .safetensors, .pt, .pth, .ckpt or .bin"
        )
    return "torch"


def weight_map(index: Path) -> dict[str, str]:
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


def _index_of(path: Path) -> Path:
    """A folder's index or only file; other paths as they are."""
    if not path.is_dir():
        return path
    for name in (*_INDEXES, *_FOLDER_FILES):
        if (path / name).is_file() and not (path / "manifest.json").is_file():
            return path / name
    found = sorted(entry.name for entry in path.iterdir() if entry.suffix in SUFFIXES)
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
        (b"\x89hdf", f"is an HDF5 (Keras) file; convert it to PyTorch and {SAVE}"),
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
        return f"is an ONNX graph, which holds no named PyTorch weights; {SAVE}"
    if head[4:8] == b"TFL3":
        return f"is a TensorFlow Lite model; {SAVE}"
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
        return f"is an exported program (.pt2): name it as the model, or {SAVE}"
    if "data.pkl" in inner:
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "is a numpy .npz archive; save a state_dict of named tensors instead"
    held = [name for name in names if name.endswith(SUFFIXES)]
    return f"is a zip archive; unpack it and name {held[0]!r}" if held else "is a zip archive that holds no weights"
