"""Texts as numbers of tokens: a corpus for language models, or texts with classes."""

from __future__ import annotations

from pathlib import Path

import torch

from ...core.errors import InputError
from ...core.limits.reading import read_bounded
from ...core.types import Preprocessing
from ...model.text_inputs import TextInputs
from ..splits.arrays import ArraySplit
from ..splits.base import Splits, divided
from ..splits.columns import ColumnSplit
from ..text.classes import Tokenize, of_table, token_split, tokenizer_of
from ..text.reading import corpus, corpus_files, is_corpus
from .folders import directory, named_splits, split_folders, whole
from .tables import csv, jsonl

_LARGEST_BYTES = 16 << 20  # of one text


def text(
    location: str,
    preprocessing: Preprocessing,
    *,
    tokenizer: str | None = None,
    length: int | None = None,
    column: str | None = None,
    target: str | None = None,
    samples: int | None = None,
    text_inputs: TextInputs | None = None,
) -> Splits:
    """A corpus for a language model, or texts and their classes.

    A language model gets a corpus: plain text (a document a file), or the column of texts or conversations of .jsonl
    and .csv files; files and folders called train, val and test are the splits. Other models get classes where there
    are any: columns text and label of a .csv or .jsonl file, or folders DIR[/SPLIT]/CLASS/FILE.txt.

    Args:
        location: the file or folder.
        preprocessing: of images, which there are none of.
        tokenizer: a folder or identifier of a transformers tokenizer; default: the model's, else `bytes`, of UTF-8
            plus one, 0 for padding.
        length: tokens of an example; default 512 for next tokens, else 128. Longer texts of classes are cut.
        column, target: names of the columns of texts and classes; for an encoder-decoder those of a pair of texts.
        samples: most examples of a split of a corpus.
        text_inputs: what the model expects of text.
    Raises:
        InputError: if there are no texts, or the tokenizer does not load.
    """
    where = f"text:{location}"
    if length is not None:
        whole(length, "length", where, 1)
    if is_corpus(location, target, text_inputs):
        documents = corpus_files(location, where, column, target)
        return corpus(documents, where, text_inputs, tokenizer=tokenizer, length=length, samples=samples)
    if samples is not None:
        raise InputError(f"data {where!r}: samples is for a corpus, and these are texts with classes; leave it out")
    tokenize = tokenizer_of(tokenizer, text_inputs, length, where)
    if Path(location).suffix in (".csv", ".jsonl"):
        table = (csv if location.endswith(".csv") else jsonl).read_table(location)
        return of_table(table, tokenize, column, target)
    root = directory(location)
    folders = split_folders(root)
    classes = sorted(entry.name for entry in (folders["train"] or root).iterdir() if entry.is_dir())
    if folders["train"] is None:
        return divided(_of_folder(root, classes, tokenize), len(classes), tuple(classes))
    parts = {name: _of_folder(folder, classes, tokenize) if folder else None for name, folder in folders.items()}
    train, test, val, note = named_splits(parts, f"data directory {location!r}")
    return Splits(train, test, val, len(classes), note, tuple(classes))


def _of_folder(folder: Path, classes: list[str], tokenize: Tokenize) -> ArraySplit | ColumnSplit:
    files = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / name).rglob("*.txt"))]
    if not files:
        raise InputError(f"{str(folder)!r} holds no texts (CLASS/FILE.txt)")
    texts = []
    for path, _ in files:
        try:
            texts.append(read_bounded(path, f"text {str(path)!r}", _LARGEST_BYTES).decode())
        except UnicodeDecodeError as error:
            raise InputError(f"text {str(path)!r} is not UTF-8: {error}; save it as UTF-8") from error
    return token_split(tokenize, texts, torch.tensor([label for _, label in files]), str(folder))
