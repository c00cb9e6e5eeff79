"""A Hugging Face data set: images, texts or numbers, and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...core.errors import InputError, nearest, require
from ...core.types import Preprocessing
from ...core.user_code.user_imports import guarded
from ...model.text_inputs import TextInputs
from ..images import as_pixels
from ..loaders import dataset_split
from ..splits.arrays import ArraySplit, array_split
from ..splits.base import Splits, classes_of, divided
from ..text.classes import token_split, tokenizer_of
from ..text.corpus import LANGUAGE_KINDS
from ..text.documents import TEXT_COLUMNS
from ..text.reading import corpus
from .folders import SPLIT_FOLDERS, named_splits, whole

_IMAGES = ("image", "img", "pixel_values")
_TEXTS = ("text", "sentence", "content")
_LABELS = ("label", "labels", "fine_label")
_HELD_BYTES = 2 << 30  # decoded images up to this size are kept in memory


@dataclass
class Pictures(Dataset[Any]):
    """Rows with an image and a label, decoded as they are taken."""

    part: Any
    image: str
    label: str
    numbers: dict[str, int]
    size: tuple[int, int]
    channels: int
    where: str

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """(channels, height, width) uint8 and a label."""
        row = self.part[index]
        pixels = np.array(as_pixels(row[self.image], self.size, self.channels))
        stacked = np.ascontiguousarray(pixels.transpose(2, 0, 1)) if self.channels == 3 else pixels[None]
        return torch.from_numpy(stacked), self.numbers.get(row[self.label], row[self.label])


def hf(
    location: str,
    preprocessing: Preprocessing,
    *,
    image: str | None = None,
    text: str | None = None,
    inputs: str | None = None,
    label: str | None = None,
    column: str | None = None,
    tokenizer: str | None = None,
    length: int | None = None,
    samples: int | None = None,
    config: str | None = None,
    text_inputs: TextInputs | None = None,
) -> Splits:
    """A Hugging Face data set: a folder written by save_to_disk, or an identifier.

    Args:
        location: DIR_OR_ID.
        preprocessing: size (default: that of the first image) and channels of images.
        image, text, inputs: column of images, of texts, or of numbers or lists of numbers; default: the image or text
            column by its usual name.
        label: column of the targets; default: label, labels or fine_label.
        column: the same as text; with label, of an encoder-decoder, a pair of texts.
        tokenizer, length, samples: as those of `text:`.
        config: name of the data set's configuration.
        text_inputs: what the model expects of text.
    Raises:
        InputError: if it does not load, or has no such columns.
    """
    where = f"hf:{location}"
    datasets = require("datasets", "hf")
    if sum(name is not None for name in (image, text, inputs)) > 1:
        raise InputError(f"data {where!r}: give one of image, text and inputs")
    with guarded(f"data {where!r}", "while it was loaded"):
        found = (
            datasets.load_from_disk(location) if Path(location).is_dir() else datasets.load_dataset(location, config)
        )
    text = text or column
    wanted = None if length is None else whole(length, "length", where, 1)
    if (
        text_inputs is not None
        and text_inputs.kind in LANGUAGE_KINDS
        and (label is None or text_inputs.kind == "seq2seq")
    ):
        parts = _documents(found, where, text, label)
        return corpus(parts, where, text_inputs, tokenizer=tokenizer, length=wanted, samples=samples)
    tokenize = tokenizer_of(tokenizer, text_inputs, wanted, where)
    given = {"image": image, "text": text, "inputs": inputs, "label": label}

    single = hasattr(found, "column_names") and not isinstance(found, dict)
    everything = [found] if single else list(found.values())
    names = _class_names(everything, _column(everything[0], label, _LABELS, where))

    def read(part: Any) -> Any:
        return _split(part, where, preprocessing, given, tokenize, names)

    if single:
        split = read(found)
        return divided(split, _classes(split, names), names)
    parts = _named_parts(found)
    if parts["train"] is None or (parts["test"] or parts["val"]) is None:
        raise InputError(f"data 'hf:{location}' needs a train split and a test or validation split")
    splits = {name: None if part is None else read(part) for name, part in parts.items()}
    train, test, val, _ = named_splits(splits, f"data {where!r}")
    return Splits(train, test, val, _classes(train, names), classes=names)


@dataclass(frozen=True)
class Rows:
    """Texts of a part of a data set, as documents.

    Attributes:
        part: of the data set.
        column: of texts or conversations.
        target: of the second texts of pairs.
    """

    part: Any
    column: str
    target: str | None

    def fingerprint(self) -> str:
        """The library's own, of all that was done to make the part."""
        return f"{self.part._fingerprint}|{self.column}|{self.target}"

    def __iter__(self) -> Iterator[Any]:
        for row in self.part:
            yield row[self.column] if self.target is None else (row[self.column], row[self.target])


def _named_parts(found: Any) -> dict[str, Any]:
    """The parts of a data set by split, under whichever usual name each has; None for those that are not there."""
    return {split: next((found[n] for n in names if n in found), None) for split, names in SPLIT_FOLDERS.items()}


def _documents(found: Any, where: str, column: str | None, target: str | None) -> dict[str, Any]:
    parts = {"train": found}
    if isinstance(found, dict):
        parts = {split: part for split, part in _named_parts(found).items() if part is not None}
        if "train" not in parts:
            raise InputError(f"data {where!r} has no train split among {', '.join(found)}")
    documents = {}
    for split, part in parts.items():
        name = _column(part, column, TEXT_COLUMNS, where)
        if name is None:
            raise InputError(
                f"data {where!r} has no column of texts, it has {', '.join(part.column_names)}; name it, e.g. "
                "--data-arg column=NAME"
            )
        documents[split] = Rows(part, name, _column(part, target, (), where))
    return documents


def _column(part: Any, given: str | None, known: tuple[str, ...], where: str) -> str | None:
    if given is not None and given not in part.column_names:
        raise InputError(f"data {where!r} has no column {given!r}{nearest(given, part.column_names)}")
    return given or next((name for name in known if name in part.column_names), None)


def _class_names(parts: list[Any], label: str | None) -> tuple[str, ...]:
    """Names of the classes: those of the column's own type, or the texts that it holds, in order."""
    if label is None:
        return ()
    names = getattr(parts[0].features[label], "names", None)
    if names is not None:
        return tuple(names)
    if getattr(parts[0].features[label], "dtype", "") not in ("string", "large_string"):
        return ()
    return tuple(sorted({text for part in parts for text in part.unique(label) if text is not None}))


def _refuse(part: Any, column: str, what: str, where: str) -> None:
    raise InputError(f"data {where!r}: column {column!r} holds no {what}, but {type(part[0][column]).__name__}")


def _split(
    part: Any,
    where: str,
    preprocessing: Preprocessing,
    given: dict[str, str | None],
    tokenize: Any,
    names: tuple[str, ...],
) -> Any:
    label = _column(part, given["label"], _LABELS, where)
    numbers = _column(part, given["inputs"], (), where)
    text = None if numbers or given["image"] else _column(part, given["text"], () if given["text"] else _TEXTS, where)
    image = None if numbers or given["text"] else _column(part, given["image"], _IMAGES, where)
    if label is None or not (numbers or text or image):
        raise InputError(
            f"data {where!r} needs columns image and label, it has {', '.join(part.column_names)}; name them, e.g. "
            "--data-arg image=COLUMN --data-arg label=COLUMN"
        )
    codes: dict[str, int] = {name: code for code, name in enumerate(names)}
    with guarded(f"data {where!r}", "while it was read"):
        targets = None if image else np.array([codes.get(value, value) for value in part[label]])
        if numbers:
            return array_split(np.array(part[numbers]), targets, where)
        if image is None:
            if not isinstance(part[0][text], str):
                _refuse(part, str(text), "texts", where)
            return token_split(tokenize, list(part[text]), torch.from_numpy(targets), where)
        if not hasattr(part[0][image], "convert"):
            _refuse(part, image, "images", where)
        size = preprocessing.size or part[0][image].size[::-1]
        pictures = Pictures(
            part, image, label, codes, (size[0], size[1]), 1 if preprocessing.channels == 1 else 3, where
        )
        if len(part) * pictures.channels * size[0] * size[1] > _HELD_BYTES:
            return dataset_split(pictures, range(len(part)), repr(where))
        stacked, labels = zip(*(pictures[number] for number in range(len(part))), strict=True)
    return array_split(torch.stack(stacked), torch.tensor(labels), where)


def _classes(split: Any, names: tuple[str, ...]) -> int | None:
    return len(names) or (classes_of(split.targets) if isinstance(split, ArraySplit) else None)
