"""Columns of a table as targets: classes, labels or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....core.errors import InputError
from ...splits.base import classes_of
from .table import Table

_MOST_CLASSES = 1000
_TRUTH = {"true": 1, "false": 0}


@dataclass(frozen=True)
class Targets:
    """Targets of all rows.

    Attributes:
        values: (n,) or (n, columns); classes and labels are integers, other numbers floats.
        classes: names of the classes, where the cells are text.
    """

    values: Tensor
    classes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None where targets are none."""
        return len(self.classes) or classes_of(self.values)


def numbers_of_targets(table: Table, names: Sequence[str]) -> Targets:
    """The targets in one column or several.

    One column of text or of whole numbers (3, not 3.0) is classes. Several columns, or lists, of 0 and 1 or of truth
    values are labels, of which an example may have many. Everything else is numbers.

    Raises:
        InputError: naming the column or line that does not fit.
    """
    if len(names) > 1:
        columns = [[_truth(cell) for cell in table.cells(name)] for name in names]
        if all(map(_are_labels, columns)):
            return Targets(torch.tensor(columns, dtype=torch.int64).T.contiguous())
        rule = "several target columns are numbers, or labels: 0 and 1, true and false"
        values = np.stack([table.column(name, rule) for name in names], 1)
        return Targets(torch.from_numpy(values.astype(np.float32)))
    name, cells = names[0], table.cells(names[0])
    if any(isinstance(cell, str) for cell in cells):
        return _classes(table, name)
    if any(isinstance(cell, list) for cell in cells):
        values = table.arrays(name)
        are_labels = values.ndim == 2 and values.shape[1] > 1 and all(map(_are_labels, cells))
        return Targets(torch.from_numpy(values.astype(np.int64) if are_labels else values))
    values = table.column(name, "a target is a number or a text")
    whole = all(isinstance(cell, int) and cell >= 0 for cell in cells)
    return Targets(torch.from_numpy(values.astype(np.int64 if whole else np.float32)))


def _classes(table: Table, name: str) -> Targets:
    table.check_all_texts(name)
    cells = table.cells(name)
    classes = sorted(set(cells))
    if len(classes) > _MOST_CLASSES:
        raise InputError(f"{table.where}: target {name!r} has more than {_MOST_CLASSES} different texts")
    numbers = {one: number for number, one in enumerate(classes)}
    return Targets(torch.tensor([numbers[cell] for cell in cells]), tuple(classes))


def _truth(cell: Any) -> Any:
    """True and False as a file of text has them, as 1 and 0; anything else as it is."""
    return _TRUTH.get(cell.strip().lower(), cell) if isinstance(cell, str) else cell


def _are_labels(cells: Sequence[Any]) -> bool:
    """Whether all are 0 or 1 in whole numbers, or truth values."""
    return all(isinstance(cell, int) and cell in (0, 1) for cell in cells)
