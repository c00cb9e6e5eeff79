"""Rows of cells: columns of numbers, lists or texts, and what errors name."""

from __future__ import annotations

from pathlib import Path

import pytest

from compresskit.core.errors import InputError
from compresskit.data.sources.tables.table import Table


def test_columns_and_the_line_that_does_not_fit():
    rows = [(2, {"a": 1, "b": [1, 2], "c": "x"}), ("2 of 'test.csv'", {"a": "?", "b": [3], "c": 4})]
    table = Table("data file 'd'", Path(), ["a", "b", "c"], rows)
    first = Table("data file 'd'", Path(), ["a", "b", "c"], rows[:1])
    assert table.cells("a") == [1, "?"] and first.column("a", "").tolist() == [1.0]
    assert first.arrays("b").tolist() == [[1.0, 2.0]]
    with pytest.raises(InputError, match="data file 'd', line 2 of 'test.csv': column 'a' holds '\\?'; numbers"):
        table.column("a", "numbers")
    with pytest.raises(InputError, match="lists in column 'b' need one length"):
        table.arrays("b")
    with pytest.raises(InputError, match="line 2: every row needs a number in column 'c', as others have, got 'x'"):
        table.check_all_texts("c")
