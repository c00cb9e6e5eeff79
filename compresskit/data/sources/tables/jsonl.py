"""Objects of a file of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ....core.errors import InputError, first_line
from ....core.limits.reading import check_regular
from ....core.types import Preprocessing
from ....model.text_inputs import TextInputs
from ...splits.base import Splits
from ...text.classes import of_table, tokenizer_of
from ...text.reading import corpus, corpus_files, is_corpus
from ..folders import whole
from .rows import Choice, split_of
from .table import Table


def jsonl(
    location: str,
    preprocessing: Preprocessing,
    *,
    target: Any = None,
    inputs: Any = None,
    column: str | None = None,
    tokenizer: str | None = None,
    length: int | None = None,
    samples: int | None = None,
    split: str | None = None,
    val: str | None = None,
    test: str | None = None,
    images: str | None = None,
    text_inputs: TextInputs | None = None,
) -> Splits:
    """Objects with the same keys, one a line: numbers, lists of numbers, categories as text, or paths of images.

    A model that takes text gets the column of texts or conversations as `text:` reads it.

    Args:
        location: the file; paths in it are relative to its folder.
        preprocessing: size and channels of images.
        target: key or keys of the targets, as a,b; default: label, target, or the last. A single one that is text or
            whole numbers is classes.
        inputs: keys of the inputs; default: all others.
        split, val, test, images: as those of `csv:`; of tables alone, not of texts.
        column, tokenizer, length, samples: as those of `text:`.
        text_inputs: what the model expects of text.
    Raises:
        InputError: naming the line that does not fit.
    """
    if inputs is not None or (text_inputs is None and tokenizer is None and column is None):
        others = {name: read_table(str(path)) for name, path in (("val", val), ("test", test)) if path is not None}
        return split_of(read_table(location), preprocessing, Choice(target, inputs, split, images), others)
    where = f"jsonl:{location}"
    tabular = {"split": split, "val": val, "test": test, "images": images}
    if given := [name for name, value in tabular.items() if value is not None]:
        raise InputError(f"data {where!r}: {given[0]} is an argument of tables, and these are texts; leave it out")
    check_regular(location, f"data file {location!r}")
    if length is not None:
        whole(length, "length", where, 1)
    if is_corpus(location, target, text_inputs):
        parts = corpus_files(location, where, column, target)
        return corpus(parts, where, text_inputs, tokenizer=tokenizer, length=length, samples=samples)
    return of_table(read_table(location), tokenizer_of(tokenizer, text_inputs, length, where), column, target)


def read_table(location: str) -> Table:
    """The objects of a file of JSON lines.

    Raises:
        InputError: if it is no such file, or a line is no object with the first one's keys.
    """
    where = f"data file {location!r}"
    check_regular(location, where)
    rows: list[tuple[int, dict[str, Any]]] = []
    with open(location, encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}, line {len(rows) + 1}: no JSON: {first_line(error)[:200]}") from error
    if len(rows) < 2:
        raise InputError(f"{where} needs at least two lines, a JSON object each")
    keys = rows[0][1].keys() if isinstance(rows[0][1], dict) else ()
    for number, row in rows:
        if not isinstance(row, dict) or row.keys() != keys or not keys:
            raise InputError(f"{where}, line {number}: expected an object with the keys {', '.join(keys) or '...'}")
    return Table(where, Path(location).parent, list(keys), rows)
