"""Tokenizers: texts to numbers of tokens, special tokens apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...core.errors import InputError, require
from ...core.user_code.user_imports import guarded

_PIECE = 1 << 18  # characters that are handed to a tokenizer at once; a longer document is cut at its line ends


class Tokenizer(Protocol):
    """Texts to numbers of tokens.

    Attributes:
        name: what errors call it.
        fingerprint: changes whenever texts could be given other numbers.
        separator: ends a document in a stream of them; None where there is none.
        pad: fills up; None where there is none.
        mask: hides a token; None where there is none.
        special: numbers that are no text.
        prefix, suffix: special tokens around every sequence.
        size: number of tokens.
    """

    name: str
    fingerprint: str
    separator: int | None
    pad: int | None
    mask: int | None
    special: frozenset[int]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    size: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Numbers of the tokens of each text, without special tokens around them."""
        ...

    def decode(self, token: int) -> str:
        """The text of a token."""
        ...

    def chat(self, messages: Any) -> str:
        """The text of a conversation."""
        ...


@dataclass
class ByteTokenizer:
    """Each byte of UTF-8 plus one; 0 pads, and ends documents."""

    name: str = "bytes"
    fingerprint: str = "bytes of UTF-8 plus one"
    separator: int | None = 0
    pad: int | None = 0
    mask: int | None = None
    special: frozenset[int] = frozenset({0})
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    size: int = 257

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Bytes plus one."""
        return [[byte + 1 for byte in text.encode()] for text in texts]

    def decode(self, token: int) -> str:
        """The text of a token."""
        return "" if token in self.special else bytes([token - 1]).decode("utf-8", "replace")

    def chat(self, messages: Any) -> str:
        """Refuses: bytes have no template."""
        raise InputError("conversations need a tokenizer with a chat template; name it with --data-arg tokenizer=DIR")


class LibraryTokenizer:
    """A tokenizer of transformers.

    Args:
        name: a folder or an identifier.
    Raises:
        InputError: if it does not load.
    """

    def __init__(self, name: str):
        transformers = require("transformers", "hf")
        with guarded(f"tokenizer {name!r}", "while it was loaded"):
            self._found = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        found = self._found
        self.name = name
        self.longest = found.model_max_length if found.model_max_length < 1 << 24 else None
        found.model_max_length = 1 << 40  # whole documents are tokenized, and cut afterwards
        self.separator = next(
            (one for one in (found.eos_token_id, found.sep_token_id, found.bos_token_id) if one is not None), None
        )
        self.pad = next(
            (one for one in (found.pad_token_id, found.eos_token_id, found.unk_token_id) if one is not None), None
        )
        self.mask = found.mask_token_id
        self.special = frozenset(found.all_special_ids)
        self.size = len(found)
        self.prefix, self.suffix = self._around()
        self.fingerprint = _fingerprint(found, name)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Numbers of tokens; a document longer than a few hundred kilobytes is cut at line ends before."""
        pieces = [_pieces(text) for text in texts]
        with guarded(f"tokenizer {self.name!r}"):
            made = self._found(
                [piece for one in pieces for piece in one], add_special_tokens=False, return_attention_mask=False
            )["input_ids"]
        rows = iter(made)
        return [[token for _ in one for token in next(rows)] for one in pieces]

    def decode(self, token: int) -> str:
        """The text of a token."""
        with guarded(f"tokenizer {self.name!r}"):
            return str(self._found.decode([token]))

    def chat(self, messages: Any) -> str:
        """The text that the tokenizer's own template makes of messages with role and content.

        Raises:
            InputError: if it has no template, or the template refuses them.
        """
        if not self._found.chat_template:
            raise InputError(
                f"tokenizer {self.name!r} has no chat template, and the data holds conversations; name another column "
                "with --data-arg column=NAME"
            )
        with guarded(f"chat template of tokenizer {self.name!r}"):
            return str(self._found.apply_chat_template(messages, tokenize=False))

    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Special tokens that the tokenizer puts before and behind a text."""
        with guarded(f"tokenizer {self.name!r}"):
            bare = self._found("a", add_special_tokens=False)["input_ids"]
            whole = self._found("a")["input_ids"]
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return tuple(whole[:start]), tuple(whole[start + len(bare) :])
        return (), ()


def make_tokenizer(name: str | None) -> Tokenizer:
    """The tokenizer of a folder or identifier; bytes where there is none, or where it is called `bytes`.

    Raises:
        InputError: if it does not load.
    """
    return ByteTokenizer() if is_bytes(name) else LibraryTokenizer(str(name))


def is_bytes(name: str | None) -> bool:
    """Whether a tokenizer's name stands for bytes."""
    return name is None or name == ByteTokenizer.name


def _pieces(text: str) -> list[str]:
    if len(text) <= _PIECE:
        return [text]
    pieces, start = [], 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        pieces.append(text[start:end])
        start = end
    return pieces


def _fingerprint(tokenizer: Any, name: str) -> str:
    """Of a fast tokenizer all that it is; of another its files, or its name."""
    digest = hashlib.sha256(str(tokenizer.chat_template).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        digest.update(backend.to_str().encode())
    else:
        digest.update(name.encode())
        for path in sorted(Path(name).glob("*")) if Path(name).is_dir() else []:
            if path.suffix in (".json", ".txt", ".model"):
                digest.update(path.read_bytes())
    return digest.hexdigest()
