"""Tables of named choices. A row is a function (as a string, imported when used) and its one-line help."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from .errors import nearest


class Row(NamedTuple):
    target: str  # "module:function", the module relative to the table's package
    help: str
    source: str = ""  # paper, year
    needs: Literal["", "data", "labels"] = ""  # what the function cannot do without; labels are data with targets

    def described(self) -> str:
        """The help line, with what the row needs."""
        return f"{self.help}; needs {self.needs}" if self.needs else self.help


class Table(Mapping[str, Row]):
    """Names of one kind of choice, in the order in which help shows them.

    Args:
        kind: what a row is, in the words of an error message ("criterion").
        package: the package that row targets are relative to ("compresskit.pruning").
        rows: name -> Row.
    """

    def __init__(self, kind: str, package: str, rows: dict[str, Row]):
        self.kind = kind
        self._package = package
        self._rows = rows

    def __getitem__(self, name: str) -> Row:
        return self._rows[self.check(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def check(self, name: str) -> str:
        """The name itself if the table has it.

        Raises:
            ValueError: naming the nearest valid name.
        """
        if name not in self._rows:
            raise ValueError(f"unknown {self.kind} {name!r}{nearest(name, self._rows)}")
        return name

    def load(self, name: str) -> Callable:
        """The row's function; its module is imported now."""
        module, _, attribute = self[name].target.partition(":")
        return getattr(importlib.import_module(f"{self._package}.{module}"), attribute)
