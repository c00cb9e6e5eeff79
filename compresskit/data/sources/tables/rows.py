"""Rows of tables (CSV, JSON lines) as examples: numbers, categories, paths of images, several targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ....core.errors import InputError, nearest
from ....core.types import Preprocessing
from ...images import SUFFIXES, size_and_bands
from ...splits.arrays import ArraySplit, array_split
from ...splits.base import Splits, divided
from ...splits.files import FileSplit
from ...splits.side_by_side import SideBySide
from ..folders import SPLIT_FOLDERS, directory, joined_notes
from .table import Table
from .targets import numbers_of_targets

_TARGETS = ("label", "target")
_MOST_CATEGORIES = 1000
#: what an index that pandas wrote along is called
_INDEX = ("", "Unnamed: 0")


@dataclass(frozen=True)
class Choice:
    """What of a table is taken, and how.

    Attributes:
        target: column or columns of the targets; default: label, target, or the last. One column of text or of whole
            numbers is classes; several columns of 0 and 1, or of truth values, are labels; other ones are floats.
        inputs: columns of the inputs; default: all others.
        split: column that says which rows are train, val and test; default: one called split that does.
        images: folder that paths are relative to; default: the file's own.
    """

    target: Any = None
    inputs: Any = None
    split: str | None = None
    images: str | None = None


def split_of(
    table: Table, preprocessing: Preprocessing, choice: Choice = Choice(), others: Mapping[str, Table | None] = {}
) -> Splits:
    """Examples of a table: numbers (categories one-hot) in one row of floats, images of each column of paths.

    Images and numbers beside each other are a tuple, which forward gets by position: in the order of the columns, all
    numbers where the first of them stands.

    Args:
        table: at least two rows.
        preprocessing: size and channels of images.
        choice: columns.
        others: tables of val and test, with the same columns.
    Raises:
        InputError: naming the column or line that does not fit.
    """
    folder = table.folder if choice.images is None else directory(choice.images, "image folder")
    table = replace(table, folder=folder)
    index = next((name for name in table.columns if _is_index(table, name)), None)
    table, parts = _joined(table, {name: one for name, one in others.items() if one is not None})
    by_column = _split_column(table, choice.split)
    if by_column and len(parts) > 1:
        raise InputError(f"{table.where}: val and test are files and rows of column {by_column!r}; name one of both")
    if by_column:
        parts = _parts_in(table, by_column)
    names = [name for name in table.columns if name != by_column]
    targets = _chosen(choice.target, table, "target") or [next((name for name in _TARGETS if name in names), names[-1])]
    columns = _chosen(choice.inputs, table, "inputs") or [
        name for name in names if name not in targets and name != index
    ]
    if not columns:
        raise InputError(f"{table.where} needs at least two columns, inputs and a target")
    found = numbers_of_targets(table, targets)
    split, encoded = _inputs(table, columns, found.values, preprocessing)
    if len(parts) == 1:
        splits = divided(split, found.num_classes, found.classes)
    else:
        cut = {name: split.subset(torch.tensor(rows)) for name, rows in parts.items() if rows}
        if "test" not in cut:
            cut["test"] = cut.pop("val")
        splits = Splits(cut["train"], cut["test"], cut.get("val"), found.num_classes, classes=found.classes)
    notes = [f"one-hot: {', '.join(encoded)}"] if encoded else []
    notes += [f"splits are those of column {by_column!r}"] if by_column else []
    notes += (
        [f"column {index!r} is the index of the rows and is left out"]
        if index is not None and not choice.inputs
        else []
    )
    splits.note = joined_notes(splits.note, *notes)
    return splits


def _joined(table: Table, others: Mapping[str, Table]) -> tuple[Table, dict[str, list[int]]]:
    """All rows in one table, so that categories are the same in all splits, and which are whose."""
    rows, parts = list(table.rows), {"train": list(range(len(table.rows)))}
    for name, other in others.items():
        missing = next((column for column in table.columns if column not in other.columns), None)
        if missing is not None:
            raise InputError(f"{other.where} has no column {missing!r}, which {table.where} has")
        parts[name] = list(range(len(rows), len(rows) + len(other.rows)))
        moved = other.folder != table.folder and table.folder.is_dir()
        for line, cells in other.rows:
            placed = {key: _placed(cell, table, other) if moved else cell for key, cell in cells.items()}
            rows.append((f"{line} of {other.where.removeprefix('data file ')}", placed))
    return replace(table, rows=rows), parts


def _placed(cell: Any, table: Table, other: Table) -> Any:
    """A path that is not found from the first table's folder, from its own."""
    if not isinstance(cell, str) or not _is_image(cell) or (table.folder / cell).is_file():
        return cell
    return str((other.folder / cell).absolute())


def _split_column(table: Table, named: str | None) -> str | None:
    if named is not None:
        return _chosen(named, table, "split")[0]
    known = {name for names in SPLIT_FOLDERS.values() for name in names}
    for column in table.columns:
        cells = set(table.cells(column)) if column.lower() == "split" else ()
        if len(cells) > 1 and all(isinstance(cell, str) and cell.strip().lower() in known for cell in cells):
            return column
    return None


def _parts_in(table: Table, column: str) -> dict[str, list[int]]:
    """Rows of each split."""
    parts: dict[str, list[int]] = {name: [] for name in SPLIT_FOLDERS}
    for number, (line, row) in enumerate(table.rows):
        said = str(row[column]).strip().lower()
        name = next((name for name, words in SPLIT_FOLDERS.items() if said in words), None)
        if name is None:
            raise InputError(f"{table.where}, line {line}: column {column!r} says {said!r:.60}, not train, val or test")
        parts[name].append(number)
    if not parts["train"] or not (parts["val"] or parts["test"]):
        raise InputError(f"{table.where}: column {column!r} needs rows of train, and of test or val")
    return parts


def _is_index(table: Table, name: str) -> bool:
    """Whether a column without a name of its own holds another whole number in each row."""
    cells = table.cells(name)
    return name in _INDEX and all(type(cell) is int for cell in cells) and len(set(cells)) == len(cells)


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


def _inputs(
    table: Table, columns: Sequence[str], targets: torch.Tensor, preprocessing: Preprocessing
) -> tuple[Any, list[str]]:
    """Examples, and the columns that are one-hot in them."""
    pictures = [
        name for name in columns if all(isinstance(cell, str) and _is_image(cell) for cell in table.cells(name))
    ]
    plain = [name for name in columns if name not in pictures]
    parts: dict[str, FileSplit | ArraySplit] = {name: _images(table, name, targets, preprocessing) for name in pictures}
    encoded: list[str] = []
    if plain:
        blocks = []
        for name in plain:
            block, is_one_hot = _numbers(table, name)
            blocks.append(block)
            encoded += [name] * is_one_hot
        alone = len(blocks) == 1 and blocks[0].ndim > 1
        rows = blocks[0] if alone else np.concatenate([block.reshape(len(block), -1) for block in blocks], 1)
        where = table.where.removeprefix("data file ").strip("'")
        parts[plain[0]] = array_split(rows, targets.numpy(), where)
    ordered = [parts[name] for name in columns if name in parts]
    return ordered[0] if len(ordered) == 1 else SideBySide(ordered), encoded


def _images(table: Table, column: str, targets: torch.Tensor, preprocessing: Preprocessing) -> FileSplit:
    paths = [table.folder / cell for cell in table.cells(column)]
    for (line, _), path in zip(table.rows, paths, strict=True):
        if not path.is_file():
            raise InputError(
                f"{table.where}, line {line}: image {str(path)!r} does not exist; say where they are with "
                "--data-arg images=DIR"
            )
    own_size, bands = size_and_bands(paths[0])
    channels = 1 if (preprocessing.channels or bands) == 1 else 3
    size = preprocessing.size or own_size
    return FileSplit(paths, targets, (size[0], size[1]), channels)


def _numbers(table: Table, name: str) -> tuple[np.ndarray, bool]:
    """A column as floats, (n,) or (n, ...), and whether it is text, which is one-hot."""
    cells = table.cells(name)
    if any(isinstance(cell, list) for cell in cells):
        return table.arrays(name), False
    if not any(isinstance(cell, str) for cell in cells):
        return table.column(name, "every row needs a number there").astype(np.float32), False
    table.check_all_texts(name)
    names = sorted(set(cells))
    if len(names) > _MOST_CATEGORIES or (len(names) == len(cells) and len(names) > 2):
        raise InputError(
            f"{table.where}: column {name!r} has {len(names)} different texts in {len(cells)} rows, which is "
            "no category; leave it out with --data-arg inputs=COLUMNS"
        )
    places = {text: number for number, text in enumerate(names)}
    return np.eye(len(names), dtype=np.float32)[[places[cell] for cell in cells]], True
