"""Tokens of documents in files: written once, memory-mapped, found again under a hash of texts and tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..splits.files import cache_folder
from .tokenizers import Tokenizer

_VERSION = 1
_AT_ONCE = 256  # documents that are tokenized together
_AT_ONCE_CHARACTERS = 1 << 22


class Source(Protocol):
    """Documents that can be read again, and a fingerprint of all that they hold."""

    def __iter__(self) -> Iterator[Any]: ...

    def fingerprint(self) -> str:
        """Changes whenever a document does."""
        ...


@dataclass(frozen=True)
class TokenFile:
    """Tokens of documents one behind the other, each ended by the tokenizer's separator where it has one.

    Attributes:
        ids: (tokens,), memory-mapped.
        bounds: where each document begins, and where the last ends, (documents + 1,).
        middles: where the second text of a pair begins, (documents,); the ends of documents where they are no pairs.
        marks: a number from 0 to 99 for each document, which depends on its text alone, (documents,).
        separated: tokens of a document that are its separator, 0 or 1.
        largest: the largest number of a token.
    """

    ids: np.ndarray
    bounds: np.ndarray
    middles: np.ndarray
    marks: np.ndarray
    separated: int
    largest: int

    def __len__(self) -> int:
        return len(self.marks)


def token_file(source: Source, tokenizer: Tokenizer) -> TokenFile:
    """The tokens of documents, from the cache folder where they were made before.

    Args:
        source: the documents, read once where the tokens are not there.
        tokenizer: what makes tokens of them.
    Raises:
        InputError: if a document cannot be read.
    """
    key = hashlib.sha256(f"{_VERSION}|{source.fingerprint()}|{tokenizer.fingerprint}".encode()).hexdigest()[:32]
    folder = cache_folder() / "tokens"
    found = _opened(folder / key)
    if found is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder / key, source, tokenizer)
        except PermissionError:  # a cache that cannot be written: this process keeps the tokens
            return _made(source, tokenizer)
        found = _opened(folder / key)
    return _made(source, tokenizer) if found is None else found


def _opened(stem: Path) -> TokenFile | None:
    record, ids, documents = (stem.with_suffix(suffix) for suffix in (".json", ".ids", ".npy"))
    try:
        facts = json.loads(record.read_text())
        table = np.load(documents)
        values = np.memmap(ids, np.dtype(facts["dtype"]), "r") if facts["tokens"] else np.zeros(0, np.uint16)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(values) != facts["tokens"]:
        return None
    return TokenFile(values, table[0], table[1, 1:], table[2, 1:], facts["separated"], facts["largest"])


def _write(stem: Path, source: Source, tokenizer: Tokenizer) -> None:
    """Three files beside each other; the record comes last, and is what says that the others are whole."""
    mark = f".{os.getpid()}.tmp"
    temporary, documents = (stem.with_name(stem.name + mark + end) for end in ("", ".npy"))
    dtype = _dtype(tokenizer)
    largest = 0
    try:
        with open(temporary, "wb") as file:
            table = _Table()
            for tokens, middle, digest in _tokenized(source, tokenizer):
                row = np.asarray(tokens, dtype)
                largest = max(largest, int(row.max(initial=0)))
                file.write(row.tobytes())
                table.add(len(row), middle, digest)
        np.save(documents, table.array())
        facts = {
            "dtype": dtype.name,
            "tokens": table.total,
            "largest": largest,
            "separated": int(tokenizer.separator is not None),
        }
        temporary.replace(stem.with_suffix(".ids"))
        documents.replace(stem.with_suffix(".npy"))
        temporary.write_text(json.dumps(facts))
        temporary.replace(stem.with_suffix(".json"))
    finally:
        temporary.unlink(missing_ok=True)
        documents.unlink(missing_ok=True)


def _made(source: Source, tokenizer: Tokenizer) -> TokenFile:
    table = _Table()
    rows = []
    for tokens, middle, digest in _tokenized(source, tokenizer):
        rows.append(np.asarray(tokens, _dtype(tokenizer)))
        table.add(len(tokens), middle, digest)
    ids = np.concatenate([np.zeros(0, _dtype(tokenizer)), *rows])
    array = table.array()
    separated = int(tokenizer.separator is not None)
    return TokenFile(ids, array[0], array[1, 1:], array[2, 1:], separated, int(ids.max(initial=0)))


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.size <= 1 << 16 else np.uint32)


class _Table:
    """Where documents begin, where the second texts of pairs begin, and their marks."""

    def __init__(self) -> None:
        self.total = 0
        self._rows = [(0, 0, 0)]

    def add(self, length: int, middle: int, mark: int) -> None:
        """Take a document in."""
        start, self.total = self.total, self.total + length
        self._rows.append((self.total, start + middle, mark))

    def array(self) -> np.ndarray:
        """(3, documents + 1) int64."""
        return np.asarray(self._rows, np.int64).T.copy()


def _tokenized(source: Source, tokenizer: Tokenizer) -> Iterator[tuple[list[int], int, int]]:
    """(tokens, where the second text begins, mark) of each document that holds any token."""
    end = [] if tokenizer.separator is None else [tokenizer.separator]
    for documents in _batches(source):
        texts = [
            tokenizer.chat(text) if isinstance(text, list) else text for document in documents for text in document
        ]
        rows = iter(tokenizer.encode(texts))
        for document in documents:
            parts = [next(rows) for _ in document]
            if not any(parts):
                continue
            digest = hashlib.sha256(repr(document).encode()).digest()
            tokens = [token for part in parts for token in part] + end
            yield tokens, len(parts[0]) if len(parts) > 1 else len(tokens), digest[0] * 100 // 256


def _batches(source: Iterable[Any]) -> Iterator[list[tuple[Any, ...]]]:
    """Documents as tuples of texts, some of them at once."""
    batch: list[tuple[Any, ...]] = []
    size = 0
    for document in source:
        batch.append(document if isinstance(document, tuple) else (document,))
        size += sum(len(text) for text in batch[-1])
        if len(batch) >= _AT_ONCE or size > _AT_ONCE_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
