"""Which files are the documents of each split, and whether texts are a corpus or have classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...core.errors import InputError
from ...model.text_inputs import TextInputs
from ..sources.folders import SPLIT_FOLDERS, directory, split_folders, whole
from ..splits.base import Splits
from .corpus import LANGUAGE_KINDS, corpus_splits, make_layout
from .documents import LABEL_COLUMNS, TABLES, TEXT_COLUMNS, Documents, has_column, text_files
from .token_files import Source


def corpus(
    parts: Mapping[str, Source | None],
    where: str,
    text_inputs: TextInputs | None,
    *,
    tokenizer: str | None,
    length: int | None,
    samples: int | None,
) -> Splits:
    """Splits of documents as a model takes them; arguments as of `text`."""
    if samples is not None:
        whole(samples, "samples", where, 1)
    layout = make_layout(where, text_inputs, tokenizer=tokenizer, length=length, samples=samples)
    return corpus_splits(parts, layout, text_inputs.vocabulary if text_inputs else None)


def corpus_files(location: str, where: str, column: str | None, target: str | None) -> dict[str, Source | None]:
    """The documents of each split that has files of its own; all are train where none has.

    Raises:
        InputError: if there are no files.
    """
    path = Path(location)
    root = path if path.is_file() else directory(location)
    files: dict[str, tuple[Path, ...]] = {"train": text_files(root)}
    if root.is_dir():
        named = {split: _named(root, names) for split, names in SPLIT_FOLDERS.items()}
        files = named if named["train"] else files
        files = {name: _with_texts(found, column) for name, found in files.items()}
    if not files["train"]:
        raise InputError(f"{location!r} holds no texts")
    return {name: Documents(found, where, column, target) for name, found in files.items() if found}


def _with_texts(files: tuple[Path, ...], column: str | None) -> tuple[Path, ...]:
    """Files of a folder but tables without a column of texts."""
    columns = TEXT_COLUMNS if column is None else (column,)
    return tuple(path for path in files if path.suffix not in TABLES or has_column(path, columns))


def _named(root: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    """Files of a split: those in its folder, or a file of its name."""
    found = [path for path in sorted(root.iterdir()) if path.name in names or (path.is_file() and path.stem in names)]
    return tuple(file for path in found for file in text_files(path))


def is_corpus(location: str, target: str | None, text_inputs: TextInputs | None) -> bool:
    """Whether texts are a corpus: to a language model always, to other models where there are no classes."""
    kind = text_inputs.kind if text_inputs else None
    if kind in LANGUAGE_KINDS:
        return target is None or kind == "seq2seq"
    if target is not None or kind == "classifier":
        return False
    path = Path(location)
    if path.is_file():
        tables = path.suffix in TABLES
        return not tables or (has_column(path, TEXT_COLUMNS) and not has_column(path, LABEL_COLUMNS))
    if not path.is_dir():
        return False
    root = split_folders(path)["train"] or path
    return any(entry.is_file() and not entry.name.startswith(".") for entry in root.iterdir())
