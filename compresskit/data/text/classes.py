"""Texts with classes, as numbers of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, require
from ...core.user_code.user_imports import guarded
from ...model.text_inputs import TextInputs
from ..sources.tables.table import Table
from ..splits.arrays import ArraySplit
from ..splits.base import Splits, divided
from ..splits.columns import ColumnSplit
from .documents import LABEL_COLUMNS, TEXT_COLUMNS
from .tokenizers import ByteTokenizer, is_bytes

#: tokens of a text where nobody says it
_LENGTH = 128
#: texts -> (n, length) token numbers, or a mapping of such
Tokenize = Callable[[list[str]], Any]


def tokenizer_of(given: str | None, model: TextInputs | None, length: int | None, where: str) -> Tokenize:
    """What turns texts into token numbers, all of one length.

    Args:
        given: the tokenizer that the user names; None takes the model's, and bytes where there is none.
        model: what the model expects of text.
        length: tokens a text; None takes the default.
        where: what errors call the data.
    Raises:
        InputError: if it does not load, or cannot pad.
    """
    name, length = given or (model.tokenizer if model else None), length or _LENGTH
    if is_bytes(name):
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


def of_table(table: Table, tokenize: Tokenize, column: str | None, target: str | None) -> Splits:
    """Texts and classes of a table.

    Args:
        table: the rows.
        tokenize: texts to numbers.
        column, target: names of the columns; None takes usual ones.
    Raises:
        InputError: if there are no such columns.
    """
    texts = column or next((name for name in TEXT_COLUMNS if name in table.columns), "text")
    labels = target or next((name for name in LABEL_COLUMNS if name in table.columns), "label")
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


def _bytes(texts: list[str], length: int) -> Tensor:
    """(n, length) int64: the numbers of bytes, then padding."""
    rows = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, values in zip(rows, ByteTokenizer().encode(texts), strict=True):
        row[: len(values[:length])] = torch.tensor(values[:length], dtype=torch.int64)
    return rows
