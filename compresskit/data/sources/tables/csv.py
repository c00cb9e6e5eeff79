"""Columns of a CSV file."""

from __future__ import annotations

import csv as csv_module
from pathlib import Path
from typing import Any

from ....core.errors import InputError
from ....core.limits.reading import check_regular
from ....core.types import Preprocessing
from ...splits.base import Splits
from .rows import Choice, split_of
from .table import Table


def csv(
    location: str,
    preprocessing: Preprocessing,
    *,
    target: Any = None,
    inputs: Any = None,
    split: str | None = None,
    val: str | None = None,
    test: str | None = None,
    images: str | None = None,
) -> Splits:
    """Columns of a CSV file with a header: numbers, categories as text, or paths of images.

    Args:
        location: the file; paths in it are relative to its folder.
        preprocessing: size and channels of images.
        target: column or columns of the targets, as a,b; default: label, target, or the last. A single one whose cells
            are text or whole numbers (3, not 3.0) is classes; several ones of 0 and 1 or of True and False are labels.
        inputs: columns of the inputs; default: all others.
        split: column that says train, val or test; default: one called split that does.
        val, test: files of these splits; without them a fifth of the rows is held out as test.
        images: folder that paths are relative to.
    Raises:
        InputError: naming line and column of what does not fit.
    """
    others = {name: read_table(str(path)) for name, path in (("val", val), ("test", test)) if path is not None}
    return split_of(read_table(location), preprocessing, Choice(target, inputs, split, images), others)


def read_table(location: str) -> Table:
    """The rows of a CSV file, cells that are written as numbers as numbers.

    Raises:
        InputError: if it is no such file, or a row is of another length.
    """
    where = f"data file {location!r}"
    rows = _rows(location)
    if len(rows) < 3:
        raise InputError(f"{where} needs a header and at least two rows")
    header = rows[0][1]
    if len(header) < 2:
        raise InputError(f"{where} needs at least two columns, inputs and a target")
    twice = next((name for number, name in enumerate(header) if name in header[:number]), None)
    if twice is not None:
        raise InputError(f"{where}: column {twice!r} is there twice")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise InputError(
                f"{where}, line {line}: every row needs {len(header)} numbers or texts, this one has {len(row)}"
            )
    cells = [(line, dict(zip(header, map(_cell, row), strict=True))) for line, row in rows[1:]]
    return Table(where, Path(location).parent, header, cells)


def _rows(location: str) -> list[tuple[int, list[str]]]:
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


def _cell(text: str) -> str | int | float:
    """A number as it is written: 3 is whole, 3.0 is not."""
    if text.strip().isdecimal() and len(text.strip()) < 18:
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text
