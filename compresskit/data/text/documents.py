"""Documents of files: plain text a file, rows of JSON lines or CSV, conversations; read one after another."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import InputError, first_line, nearest
from ...core.limits.reading import check_regular

#: columns that hold texts, the first that is there counts
TEXT_COLUMNS = ("text", "sentence", "content", "review", "messages")
#: files with a text a row
TABLES = (".jsonl", ".csv")
#: columns that hold classes
LABEL_COLUMNS = ("label", "target", "class")
_LARGEST_BYTES = 1 << 30  # of one plain text file, which is one document
_READ = 1 << 20

#: a text, a conversation (a list of messages), or a pair of texts
Document = Any


@dataclass(frozen=True)
class Documents:
    """Documents of some files, in the order of the files.

    Attributes:
        files: text, .jsonl or .csv.
        where: what errors call the data.
        column: of texts or conversations in tables; None takes a usual name.
        target: of the second text of a pair; None where documents are single texts.
    """

    files: tuple[Path, ...]
    where: str
    column: str | None = None
    target: str | None = None

    def fingerprint(self) -> str:
        """Of all bytes, in order, and of which columns are read."""
        digest = hashlib.sha256(repr((self.column, self.target)).encode())
        for path in self.files:
            check_regular(path, f"text {str(path)!r}")
            digest.update(f"\n{path.suffix} {path.stat().st_size}\n".encode())
            with open(path, "rb") as file:
                while block := file.read(_READ):
                    digest.update(block)
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Document]:
        for path in self.files:
            if path.suffix in TABLES:
                yield from self._rows(path)
            elif self.target is not None:
                raise InputError(f"data {self.where!r}: pairs of texts are columns of a .jsonl or .csv file")
            else:
                yield self._plain(path)

    def _plain(self, path: Path) -> str:
        what = f"text {str(path)!r}"
        if check_regular(path, what) > _LARGEST_BYTES:
            raise InputError(f"{what} is larger than {_LARGEST_BYTES:,} bytes; divide it, or give it as .jsonl")
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{what} is not UTF-8: {error}; save it as UTF-8, or move it elsewhere") from error

    def _rows(self, path: Path) -> Iterator[Document]:
        where = f"data file {str(path)!r}"
        column = self.column
        for number, row in rows_of(path):
            column = column or next((name for name in TEXT_COLUMNS if name in row), None)
            if column is None or column not in row:
                named = column or TEXT_COLUMNS[0]
                raise InputError(
                    f"{where}, line {number}: no column {named!r}; it has {', '.join(map(str, row))}; "
                    f"name it with --data-arg column=NAME{nearest(named, list(map(str, row)))}"
                )
            if self.target is None:
                yield _checked(row[column], where, number, column)
                continue
            if self.target not in row:
                raise InputError(f"{where}, line {number}: no column {self.target!r}{nearest(self.target, list(row))}")
            yield (_checked(row[column], where, number, column), _checked(row[self.target], where, number, self.target))


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of a .jsonl or .csv file, one after another.

    Raises:
        InputError: naming the line that cannot be read.
    """
    where = f"data file {str(path)!r}"
    check_regular(path, where)
    number = 1
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            if path.suffix == ".csv":
                yield from enumerate(csv.DictReader(file), 2)
                return
            for number, line in enumerate(file, 1):
                row = json.loads(line) if line.strip() else None
                if isinstance(row, dict):
                    yield number, row
                elif row is not None:
                    raise InputError(f"{where}, line {number}: expected an object, got {type(row).__name__}")
        except (ValueError, RecursionError, csv.Error) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{where}, line {number}: cannot be read: {first_line(error)[:200]}") from error


def has_column(path: Path, names: tuple[str, ...]) -> bool:
    """Whether the first row of a table has one of some columns."""
    if path.suffix not in TABLES or not path.is_file():
        return False
    _, row = next(rows_of(path), (0, {}))
    return any(name in row for name in names)


def text_files(root: Path) -> tuple[Path, ...]:
    """Every file below a folder but hidden ones, sorted; or the file itself."""
    if root.is_file():
        return (root,)
    found = [path for path in root.rglob("*") if path.is_file()]
    return tuple(
        sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))
    )


def _checked(cell: Any, where: str, number: int, column: str) -> Any:
    if isinstance(cell, str) or (isinstance(cell, list) and cell and all(isinstance(one, dict) for one in cell)):
        return cell
    raise InputError(
        f"{where}, line {number}: column {column!r} needs a text, or a list of messages with role and content, got "
        f"{cell!r:.60}"
    )
