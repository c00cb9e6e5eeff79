"""Rows of tables (CSV, JSON lines) as examples: numbers, categories, paths of images, several targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....core.errors import InputError, nearest
from ....core.types import Preprocessing
from ...images import SUFFIXES, size_and_bands
from ...splits.arrays import array_split
from ...splits.base import Splits, classes_of, divided
from ...splits.files import FileSplit
from ..folders import joined_notes

_TARGETS = ("label", "target")
_MOST_CATEGORIES = 1000
_Row = tuple[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """Rows with their line numbers, cells as numbers, text, or lists of numbers.

    Attributes:
        where: what errors call it.
        folder: that paths are relative to.
        columns: names, in order.
        rows: (line, cells).
    """

    where: str
    folder: Path
    columns: list[str]
    rows: Sequence[_Row]

    def cells(self, column: str) -> list[Any]:
        """The cells of a column, top down."""
        return [row[column] for _, row in self.rows]


def split_of(table: Table, preprocessing: Preprocessing, target: Any = None, inputs: Any = None) -> Splits:
    """Examples of a table: a column of image paths, else all numbers (categories one-hot) in one row of floats.

    Args:
        table: at least two rows.
        preprocessing: size and channels of images.
        target: column or columns of the targets; default: label, target, or the last. One column of text or of whole
            numbers is classes; several columns are floats.
        inputs: columns of the inputs; default: all others.
    Raises:
        InputError: naming the column or line that does not fit.
    """
    targets = _chosen(target, table, "target") or [
        next((name for name in _TARGETS if name in table.columns), table.columns[-1])
    ]
    columns = _chosen(inputs, table, "inputs") or [name for name in table.columns if name not in targets]
    if not columns:
        raise InputError(f"{table.where} needs at least two columns, inputs and a target")
    values, classes = _targets(table, targets)
    if len(columns) == 1 and all(isinstance(cell, str) and _is_image(cell) for cell in table.cells(columns[0])):
        split: Any = _images(table, columns[0], values, preprocessing)
        note = ""
    else:
        blocks, one_hot = zip(*(_numbers(table, name) for name in columns), strict=True)
        encoded = [name for name, names in zip(columns, one_hot, strict=True) if names]
        note = f"one-hot: {', '.join(encoded)}" if encoded else ""
        rows = blocks[0] if len(blocks) == 1 else np.concatenate([block.reshape(len(block), -1) for block in blocks], 1)
        split = array_split(rows, values.numpy(), table.where.removeprefix("data file ").strip("'"))
    splits = divided(split, len(classes) or classes_of(values), classes)
    splits.note = joined_notes(splits.note, note)
    return splits


def _chosen(given: Any, table: Table, option: str) -> list[str]:
    names = given.split(",") if isinstance(given, str) else [] if given is None else given
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{table.where}: {option} names columns, as a,b, got {given!r:.60}")
    for name in names:
        if name not in table.columns:
            raise InputError(f"{table.where} has no column {name!r}{nearest(name, table.columns)}")
    return list(names)


def _is_image(cell: str) -> bool:
    return cell.lower().endswith(SUFFIXES)


def _targets(table: Table, names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Targets (n,) or (n, columns), and names of classes where they are text."""
    if len(names) > 1:
        columns = [_column(table, name, "several target columns are numbers") for name in names]
        return torch.from_numpy(np.stack(columns, 1).astype(np.float32)), ()
    cells = table.cells(names[0])
    if any(isinstance(cell, str) for cell in cells):
        _check_kind(table, names[0])
        classes = sorted(set(cells))
        if len(classes) > _MOST_CATEGORIES:
            raise InputError(f"{table.where}: target {names[0]!r} has more than {_MOST_CATEGORIES} different texts")
        numbers = {name: number for number, name in enumerate(classes)}
        return torch.tensor([numbers[cell] for cell in cells]), tuple(classes)
    if any(isinstance(cell, list) for cell in cells):
        return torch.from_numpy(_arrays(table, names[0])), ()
    values = _column(table, names[0], "a target is a number or a text")
    whole = all(isinstance(cell, int) and cell >= 0 for cell in cells)
    return torch.from_numpy(values.astype(np.int64 if whole else np.float32)), ()


def _images(table: Table, column: str, targets: Tensor, preprocessing: Preprocessing) -> FileSplit:
    paths = [table.folder / cell for cell in table.cells(column)]
    for (line, _), path in zip(table.rows, paths, strict=True):
        if not path.is_file():
            raise InputError(f"{table.where}, line {line}: image {str(path)!r} does not exist")
    own_size, bands = size_and_bands(paths[0])
    channels = 1 if (preprocessing.channels or bands) == 1 else 3
    size = preprocessing.size or own_size
    return FileSplit(paths, targets, (size[0], size[1]), channels)


def _numbers(table: Table, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column as floats, (n,) or (n, ...), and its categories where it is text."""
    cells = table.cells(name)
    if any(isinstance(cell, list) for cell in cells):
        return _arrays(table, name), ()
    if not any(isinstance(cell, str) for cell in cells):
        return _column(table, name, "every row needs a number there").astype(np.float32), ()
    _check_kind(table, name)
    names = sorted(set(cells))
    if len(names) > _MOST_CATEGORIES or (len(names) == len(cells) and len(names) > 2):
        raise InputError(
            f"{table.where}: column {name!r} has {len(names)} different texts in {len(cells)} rows, which is "
            "no category; leave it out with --data-arg inputs=COLUMNS"
        )
    places = {text: number for number, text in enumerate(names)}
    return np.eye(len(names), dtype=np.float32)[[places[cell] for cell in cells]], tuple(names)


def _check_kind(table: Table, name: str) -> None:
    """Raises InputError for a column in which some cells are text and others numbers."""
    texts = [line for line, row in table.rows if isinstance(row[name], str)]
    if len(texts) < len(table.rows):
        cell = next(row[name] for line, row in table.rows if line == texts[0])
        raise InputError(
            f"{table.where}, line {texts[0]}: every row needs a number in column {name!r}, as others have, "
            f"got {cell!r:.60}"
        )


def _column(table: Table, name: str, rule: str) -> np.ndarray:
    for line, row in table.rows:
        if not isinstance(row[name], bool | int | float):
            raise InputError(f"{table.where}, line {line}: column {name!r} holds {row[name]!r:.60}; {rule}")
    return np.array(table.cells(name), dtype=np.float64)


def _arrays(table: Table, name: str) -> np.ndarray:
    try:
        return np.array(table.cells(name), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{table.where}: lists in column {name!r} need one length and numbers") from error
