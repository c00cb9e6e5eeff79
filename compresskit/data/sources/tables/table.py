"""A table: rows of cells with the lines that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....core.errors import InputError

#: (line, cells); lines of further files say of which
_Row = tuple[int | str, Mapping[str, Any]]


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

    def column(self, name: str, rule: str) -> np.ndarray:
        """The numbers of a column.

        Raises:
            InputError: naming the first line without one, and the rule.
        """
        for line, row in self.rows:
            if not isinstance(row[name], bool | int | float):
                raise InputError(f"{self.where}, line {line}: column {name!r} holds {row[name]!r:.60}; {rule}")
        return np.array(self.cells(name), dtype=np.float64)

    def arrays(self, name: str) -> np.ndarray:
        """The lists of a column as rows of one array."""
        try:
            return np.array(self.cells(name), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.where}: lists in column {name!r} need one length and numbers") from error

    def check_all_texts(self, name: str) -> None:
        """Raises InputError for a column in which some cells are text and others numbers."""
        texts = [line for line, row in self.rows if isinstance(row[name], str)]
        if len(texts) < len(self.rows):
            cell = next(row[name] for line, row in self.rows if line == texts[0])
            raise InputError(
                f"{self.where}, line {texts[0]}: every row needs a number in column {name!r}, as others have, "
                f"got {cell!r:.60}"
            )
