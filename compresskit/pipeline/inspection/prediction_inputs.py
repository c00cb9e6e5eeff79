"""Files as inputs of a model: images, arrays, sounds and texts, read as the model's data would be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError, first_line, require
from ...core.limits.json_files import read_json
from ...core.limits.reading import check_regular
from ...core.tensors.dtypes import model_dtype
from ...core.types import Inputs, Loaded
from ...data import images
from ...data.preprocessing import ImageTransform
from ...data.sources.audio import read_wav, resampled
from ...data.text.tokenizers import make_tokenizer
from ...model.text_inputs import text_inputs_of, tokenizer_among

_ARRAYS, _SOUNDS, _TEXTS = (".npy",), (".wav",), (".txt",)
_KNOWN = (*images.SUFFIXES, *_ARRAYS, *_SOUNDS, *_TEXTS)
_LARGEST_TEXT_BYTES, _LARGEST_SETTINGS_BYTES = 1 << 26, 1 << 20


@dataclass
class Reader:
    """What turns files into examples of a model.

    Attributes:
        read: a path -> (label, example) of each example in it.
        batch: examples -> inputs.
        alike: whether two examples go into one batch.
        notes: lines for the log.
        generates: whether outputs are of next tokens.
        decode: the text of a token.
    """

    read: Callable[[str], Iterator[tuple[str, Any]]]
    batch: Callable[[list[Any]], Inputs]
    alike: Callable[[Any, Any], bool]
    notes: tuple[str, ...] = ()
    generates: bool = False
    decode: Callable[[int], str] | None = None


def files_of(inputs: Sequence[str]) -> Iterator[str]:
    """Files that are named, and those below folders that are; what is no path stays, as it may be a text.

    Raises:
        InputError: if a folder holds nothing that could be an input.
    """
    if not inputs:
        raise InputError("predict needs an input: an image, a .npy array, a .wav sound, a text, or a folder of them")
    for given in inputs:
        if "\0" in given:
            raise InputError(f"input {given!r} names no file")
        if not _is_path(given) or not Path(given).is_dir():
            yield given
            continue
        found = [path for path in sorted(Path(given).rglob("*")) if path.suffix.lower() in _KNOWN and path.is_file()]
        if not found:
            raise InputError(f"folder {given!r} holds no input ({', '.join(_KNOWN)})")
        yield from map(str, found)


def _is_path(given: str) -> bool:
    try:
        return os.path.lexists(given)
    except (OSError, ValueError):
        return False


def reader_of(loaded: Loaded, model: str) -> Reader:
    """The reader for what a model takes.

    Args:
        loaded: the model, its example and preprocessing.
        model: as it was named; a tokenizer may lie there.
    """
    text = _text_reader(loaded, model)
    if text is not None:
        return text
    transform = ImageTransform(loaded.preprocessing, _order(loaded))
    dtype = model_dtype(loaded.module) or torch.float32
    rate = _rate(loaded, model)

    def read(path: str) -> Iterator[tuple[str, Tensor]]:
        suffix = _existing(path).suffix.lower()
        if suffix in _ARRAYS:
            yield from _arrays(path, loaded)
        elif suffix in _SOUNDS:
            yield path, _sound(path, loaded, rate)
        elif suffix in images.SUFFIXES:
            yield path, _image(path, loaded, transform)
        else:
            raise InputError(f"input {path!r}: a model of tensors takes images, .npy and .wav")

    def batch(examples: list[Tensor]) -> Inputs:
        stacked = torch.stack(examples)
        stacked = stacked.to(dtype) if stacked.is_floating_point() else stacked
        return {next(iter(loaded.example)): stacked} if isinstance(loaded.example, dict) else stacked

    note = transform.described(torch.zeros(1, 3, 1, 1, dtype=torch.uint8)) if _takes_images(loaded) else ""
    return Reader(read, batch, lambda one, other: one.shape == other.shape, (note,) if note else ())


def _order(loaded: Loaded) -> str:
    wanted = getattr(loaded.module, "about", {}).get("preprocessing", {})
    return "bgr" if isinstance(wanted, dict) and wanted.get("order") == "bgr" else "rgb"


def _existing(path: str) -> Path:
    if not _is_path(path):
        raise InputError(f"input {path!r} does not exist")
    check_regular(Path(path), f"input {path!r}")
    return Path(path)


def _tensor(loaded: Loaded) -> Tensor:
    """The one tensor that a model takes.

    Raises:
        InputError: if it takes several.
    """
    example = loaded.example
    tensors = (
        [example] if isinstance(example, Tensor) else [*(example.values() if isinstance(example, dict) else example)]
    )
    if len(tensors) != 1 or not isinstance(tensors[0], Tensor):
        raise InputError(f"model {loaded.name!r} takes {len(tensors)} inputs, and a file is one; call it from Python")
    return tensors[0]


def _takes_images(loaded: Loaded) -> bool:
    example = loaded.example
    return isinstance(example, Tensor) and example.dim() == 4


def _image(path: str, loaded: Loaded, transform: ImageTransform) -> Tensor:
    example = _tensor(loaded)
    whole = example.dtype is torch.uint8 and example.dim() == 4 and example.shape[-1] in (1, 3)
    if example.dim() != 4 or not (whole or example.shape[1] in (1, 3)):
        raise InputError(f"input {path!r} is an image, and model {loaded.name!r} takes {list(example.shape[1:])}")
    channels = int(example.shape[-1 if whole else 1])
    size = transform.wanted.size or tuple(example.shape[1:3] if whole else example.shape[2:])
    pixels = torch.from_numpy(np.array(images.decode(Path(path), size, channels)))
    return pixels.permute(1, 2, 0).contiguous() if whole else transform(pixels[None])[0]


def _arrays(path: str, loaded: Loaded) -> Iterator[tuple[str, Tensor]]:
    example = _tensor(loaded)
    try:
        array = np.load(path, allow_pickle=False)
        values = torch.from_numpy(np.ascontiguousarray(array))
    except Exception as error:  # NumPy's own kinds on damaged files
        raise InputError(f"array {path!r} cannot be read: {first_line(error)[:200]}") from error
    values = values.to(example.dtype)
    if values.dim() == example.dim() - 1:
        yield path, values
    elif values.dim() == example.dim():
        yield from ((f"{path}[{place}]", one) for place, one in enumerate(values))
    else:
        shape = list(example.shape[1:])
        raise InputError(f"array {path!r} has the shape {list(values.shape)}, and the model takes {shape} an example")


def _rate(loaded: Loaded, model: str) -> int | None:
    """Samples a second that a model takes, as the feature extractor in its folder says; None where there is none."""
    for folder in _folders(loaded, model):
        file = Path(folder) / "preprocessor_config.json"
        settings = read_json(file, f"file {str(file)!r}", _LARGEST_SETTINGS_BYTES) if file.is_file() else None
        found = settings.get("sampling_rate") if isinstance(settings, dict) else None
        if isinstance(found, int) and found > 0:
            return found
    return None


def _sound(path: str, loaded: Loaded, wanted: int | None) -> Tensor:
    example = _tensor(loaded)
    if example.dim() not in (2, 3) or not example.is_floating_point():
        raise InputError(f"input {path!r} is a sound, and model {loaded.name!r} takes {list(example.shape[1:])}")
    rate, sound = read_wav(Path(path))
    sound = resampled(sound, rate, wanted) if wanted not in (None, rate) else sound
    samples = int(example.shape[-1])
    fitted = np.zeros(samples, np.float32)
    fitted[: len(sound[:samples])] = sound[:samples]
    values = torch.from_numpy(fitted)
    return values if example.dim() == 2 else values[None]


def _text_reader(loaded: Loaded, model: str) -> Reader | None:
    about = getattr(loaded.module, "about", {})
    known = about.get("text") if isinstance(about, dict) else None
    wanted = text_inputs_of(loaded.module, *_folders(loaded, model))
    if wanted is None and not isinstance(known, dict):
        return None
    names = list(loaded.example) if isinstance(loaded.example, dict) else ["input_ids"]
    encode, decode = _tokenizer(loaded, model, wanted.tokenizer if wanted else None)
    kind = wanted.kind if wanted else str(known.get("kind") if known else "")
    longest = wanted.max_length if wanted else known.get("max_length") if known else None
    shape = next((spec.shape for spec in getattr(loaded.module, "specs", ())), (None, None))
    fixed = shape[1] if len(shape) > 1 else None

    def read(path: str) -> Iterator[tuple[str, list[int]]]:
        if not _is_path(path):
            if Path(path).suffix and " " not in path:
                raise InputError(f"input {path!r} does not exist")
            yield path, encode(path)[: fixed or longest]
            return
        for line in _lines(path):
            yield line, encode(line)[: fixed or longest]

    def batch(examples: list[list[int]]) -> Inputs:
        length = fixed or max(len(ids) for ids in examples)
        ids = torch.zeros(len(examples), length, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, example in enumerate(examples):
            ids[row, : len(example)] = torch.tensor(example)
            mask[row, : len(example)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
        found = {name: given[name] for name in names if name in given} or {names[0]: ids}
        return found if isinstance(loaded.example, dict) else found[names[0]]

    return Reader(read, batch, lambda one, other: len(one) == len(other), generates=kind == "causal", decode=decode)


def _folders(loaded: Loaded, model: str) -> list[str]:
    parents = {str(path.parent) for path in loaded.companions.values()}
    return [model.partition(":")[2] if model.startswith("hf:") else model, str(Path(model).parent), *sorted(parents)]


def _tokenizer(
    loaded: Loaded, model: str, folder: str | None
) -> tuple[Callable[[str], list[int]], Callable[[int], str]]:
    """Text to numbers with special tokens around, and a number to its text.

    Raises:
        InputError: if the model has no tokenizer.
    """
    beside = Path(model).with_name(f"{Path(model).stem}.tokenizer.json")
    if beside.is_file():
        found = require("tokenizers", "hf").Tokenizer.from_file(str(beside))
        return (lambda text: found.encode(text).ids), (lambda token: found.decode([token]))
    folder = folder or tokenizer_among(*_folders(loaded, model))
    if folder is None:
        raise InputError(
            f"model {loaded.name!r} takes texts and brings no tokenizer; put tokenizer.json beside it, or give arrays "
            "of token numbers as .npy"
        )
    tokenizer = make_tokenizer(folder)

    def encode(text: str) -> list[int]:
        return [*tokenizer.prefix, *tokenizer.encode([text])[0], *tokenizer.suffix]

    return encode, tokenizer.decode


def _lines(path: str) -> list[str]:
    if _existing(path).suffix.lower() not in _TEXTS:
        raise InputError(f"input {path!r}: a model of texts takes .txt files, an example a line, or the text itself")
    if Path(path).stat().st_size > _LARGEST_TEXT_BYTES:
        raise InputError(f"input {path!r} is larger than {_LARGEST_TEXT_BYTES:,} bytes; split it")
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"input {path!r} is no text in UTF-8") from error
    found = [line for line in lines if line]
    if not found:
        raise InputError(f"input {path!r} holds no text")
    return found
