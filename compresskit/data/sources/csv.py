"""Numeric columns of a CSV file."""

from __future__ import annotations

import csv as csv_module

import numpy as np

from ...core.errors import InputError
from ...core.limits.reading import check_regular
from ...core.types import Preprocessing
from ..splits.arrays import array_split
from ..splits.base import Splits, classes_of, divided


def csv(location: str, preprocessing: Preprocessing) -> Splits:
    """Numeric columns of a CSV file with a header; whole-number targets are classes."""
    rows = _csv_rows(location)
    if len(rows) < 3:
        raise InputError(f"data file {location!r} needs a header and at least two rows")
    header = rows[0][1]
    if len(header) < 2:
        raise InputError(f"data file {location!r} needs at least two columns, inputs and a target")
    target = next((header.index(name) for name in ("label", "target") if name in header), len(header) - 1)
    for line, row in rows[1:]:
        if len(row) != len(header) or not all(map(_is_number, row)):
            raise InputError(f"data file {location!r}, line {line}: every row needs {len(header)} numbers")
    table = np.array([[float(cell) for cell in row] for _, row in rows[1:]], dtype=np.float64)
    inputs = np.delete(table, target, axis=1).astype(np.float32)
    targets = table[:, target]
    if all(_is_whole(row[target]) for _, row in rows[1:]):
        targets = targets.astype(np.int64)
    split = array_split(inputs, targets, location)
    return divided(split, classes_of(split.targets))


def _csv_rows(location: str) -> list[tuple[int, list[str]]]:
    """(line that it ends on, cells) of every row that is not empty."""
    check_regular(location, f"data file {location!r}")
    with open(location, newline="", encoding="utf-8-sig") as file:
        reader = csv_module.reader(file)
        try:
            return [(reader.line_num, row) for row in reader if row]
        except UnicodeDecodeError as error:
            raise InputError(f"data file {location!r} is not UTF-8: {error}; save it as UTF-8") from error
        except csv_module.Error as error:
            raise InputError(f"data file {location!r}, line {reader.line_num}: {error}") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_whole(cell: str) -> bool:
    """Whether a cell is written as a class: 3, where 3.0 is a number."""
    return cell.strip().isdecimal() and len(cell.strip()) < 18
