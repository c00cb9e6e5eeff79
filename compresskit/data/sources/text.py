"""Texts with classes, as numbers of tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, require
from ...core.limits.reading import read_bounded
from ...core.types import Preprocessing
from ...core.user_code.user_imports import guarded
from ..splits.arrays import ArraySplit
from ..splits.base import Splits, divided
from ..splits.columns import ColumnSplit
from .folders import directory, named_splits, split_folders, whole
from .tables import csv, jsonl
from .tables.rows import Table

_LENGTH = 128
_TEXTS = ("text", "sentence", "content", "review")
_LARGEST_BYTES = 16 << 20  # of one text
#: texts -> (n, length) token numbers, or a mapping of such
Tokenize = Callable[[list[str]], Any]


def text(
    location: str,
    preprocessing: Preprocessing,
    *,
    tokenizer: str | None = None,
    length: int = _LENGTH,
    column: str | None = None,
    target: str | None = None,
) -> Splits:
    """Texts and classes of a .csv or .jsonl file (columns text and label), or of folders DIR[/SPLIT]/CLASS/FILE.txt.

    Args:
        location: the file or folder.
        preprocessing: of images, which there are none of.
        tokenizer: a folder or identifier of a transformers tokenizer, which gives input_ids and attention_mask;
            default: bytes of UTF-8 plus one, 0 for padding, as one tensor.
        length: tokens of a text; longer ones are cut, shorter ones padded.
        column, target: names of the columns of texts and classes.
    Raises:
        InputError: if there are no texts, or the tokenizer does not load.
    """
    where = f"text:{location}"
    tokenize = tokenizer_of(tokenizer, whole(length, "length", where, 1), where)
    if Path(location).suffix in (".csv", ".jsonl"):
        return _of_table(location, tokenize, column, target)
    root = directory(location)
    folders = split_folders(root)
    classes = sorted(entry.name for entry in (folders["train"] or root).iterdir() if entry.is_dir())
    if folders["train"] is None:
        return divided(_of_folder(root, classes, tokenize), len(classes), tuple(classes))
    parts = {name: _of_folder(folder, classes, tokenize) if folder else None for name, folder in folders.items()}
    train, test, val, note = named_splits(parts, f"data directory {location!r}")
    return Splits(train, test, val, len(classes), note, tuple(classes))


def tokenizer_of(name: str | None, length: int, where: str) -> Tokenize:
    """What turns texts into token numbers, all of one length."""
    if name is None:
        return lambda texts: _bytes(texts, length)
    transformers = require("transformers", "hf")
    with guarded(f"tokenizer {name!r}", "while it was loaded"):
        found = transformers.AutoTokenizer.from_pretrained(name)
    if found.pad_token is None:
        found.pad_token = found.eos_token or found.unk_token
    if found.pad_token is None:
        raise InputError(f"data {where!r}: tokenizer {name!r} has no token to pad with")

    def tokenize(texts: list[str]) -> dict[str, Tensor]:
        with guarded(f"tokenizer {name!r}"):
            made = found(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return {key: made[key] for key in ("input_ids", "attention_mask") if key in made}

    return tokenize


def token_split(tokenize: Tokenize, texts: list[str], targets: Tensor, where: str) -> ArraySplit | ColumnSplit:
    """Texts and their classes as a split."""
    tokens = tokenize(texts)
    return ArraySplit(tokens, targets) if isinstance(tokens, Tensor) else ColumnSplit(tokens, targets, where)


def _of_table(location: str, tokenize: Tokenize, column: str | None, target: str | None) -> Splits:
    table: Table = (csv if location.endswith(".csv") else jsonl).read_table(location)
    texts = column or next((name for name in _TEXTS if name in table.columns), "text")
    labels = target or next((name for name in ("label", "target", "class") if name in table.columns), "label")
    for name in (texts, labels):
        if name not in table.columns:
            raise InputError(
                f"{table.where} has no column {name!r}; it has {', '.join(table.columns)}; name column=, target="
            )
    cells = table.cells(labels)
    classes = sorted(
        {cell if isinstance(cell, int) else str(cell) for cell in cells}, key=lambda name: (str(type(name)), name)
    )
    whole_numbers = all(isinstance(cell, int) and cell >= 0 for cell in cells)
    numbers = {name: name if whole_numbers else number for number, name in enumerate(classes)}
    targets = torch.tensor([numbers[cell if isinstance(cell, int) else str(cell)] for cell in cells])
    split = token_split(tokenize, [str(cell) for cell in table.cells(texts)], targets, table.where)
    return divided(split, int(targets.max()) + 1, () if whole_numbers else tuple(map(str, classes)))


def _of_folder(folder: Path, classes: list[str], tokenize: Tokenize) -> ArraySplit | ColumnSplit:
    files = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name).rglob("*.txt"))]
    if not files:
        raise InputError(f"{str(folder)!r} holds no texts (CLASS/FILE.txt)")
    texts = []
    for path, _ in files:
        try:
            texts.append(read_bounded(path, f"text {str(path)!r}", _LARGEST_BYTES).decode())
        except UnicodeDecodeError as error:
            raise InputError(f"text {str(path)!r} is not UTF-8: {error}; save it as UTF-8") from error
    return token_split(tokenize, texts, torch.tensor([label for _, label in files]), str(folder))


def _bytes(texts: list[str], length: int) -> Tensor:
    """(n, length) int64: each byte of UTF-8 plus one, then 0."""
    rows = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, content in zip(rows, texts, strict=True):
        values = list(content.encode()[:length])
        row[: len(values)] = torch.tensor(values, dtype=torch.int64) + 1
    return rows
