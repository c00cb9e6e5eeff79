"""A corpus as splits of examples: which documents are train, val and test, and how a model takes their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...core.errors import InputError
from ...model.text_inputs import TextInputs, TextKind
from ..splits.base import Splits
from .blocks import Chunks, PackedBlocks, Pairs, Stream
from .token_files import Source, TokenFile, token_file
from .tokenizers import Tokenizer, make_tokenizer

#: kinds whose targets are the tokens themselves
LANGUAGE_KINDS: tuple[TextKind, ...] = ("causal", "masked", "seq2seq")
_LENGTHS = {"causal": 512}  # of an example where nobody says it; the others' is 128
_LENGTH = 128
_FEW = 20  # documents, below which blocks of them are divided, not they
_TEST, _VAL = 10, 20  # of 100 marks


@dataclass(frozen=True)
class Layout:
    """How examples are made of tokens.

    Attributes:
        tokenizer: that made them.
        kind: of the model.
        length: tokens an example.
        samples: most examples of a split; None takes all.
        named: whether inputs are a mapping, as transformers' models take it.
        start: the decoder's first token.
        where: what errors call the data.
    """

    tokenizer: Tokenizer
    kind: TextKind
    length: int
    samples: int | None
    named: bool
    start: int
    where: str


def make_layout(
    where: str, model: TextInputs | None, *, tokenizer: str | None, length: int | None, samples: int | None
) -> Layout:
    """How a model takes text.

    Args:
        where: what errors call the data.
        model: what it expects; None of models of no known library, which get packed blocks as one tensor.
        tokenizer: folder or identifier; None takes the model's, and bytes where there is no model's.
        length: tokens an example; None takes 512 of causal models and 128 of others, at most what the model takes.
        samples: most examples of a split.
    Raises:
        InputError: if there is no tokenizer for a model that has one, or an example is longer than the model takes.
    """
    name = tokenizer or (model.tokenizer if model else None)
    if name is None and model is not None:
        raise InputError(
            f"data {where!r}: no tokenizer lies in the model's folder; name one with --data-arg tokenizer=DIR"
        )
    found = make_tokenizer(name)
    kind: TextKind = model.kind if model else "causal"
    longest = min((n for n in (model and model.max_length, getattr(found, "longest", None)) if n), default=None)
    if length is not None and longest is not None and length > longest:
        raise InputError(f"data {where!r}: length {length} is more than the {longest} tokens that the model takes")
    wanted = length or min(_LENGTHS.get(kind, _LENGTH), longest or 1 << 30)
    if wanted <= len(found.prefix) + len(found.suffix) + 1:
        raise InputError(f"data {where!r}: length {wanted} leaves no room for text; give length= a larger number")
    if kind == "masked" and found.mask is None:
        raise InputError(f"data {where!r}: tokenizer {found.name!r} has no mask token, which the model learns from")
    if kind != "causal" and found.pad is None:
        raise InputError(f"data {where!r}: tokenizer {found.name!r} has no token to pad with")
    start = model.start if model and model.start is not None else 0
    return Layout(found, kind, wanted, samples, model is not None, start, where)


def corpus_splits(parts: Mapping[str, Source | None], layout: Layout, vocabulary: int | None) -> Splits:
    """Splits of documents; no document is in two of them.

    Args:
        parts: train, and perhaps val and test, which are divided off where they are missing.
        layout: how examples are made.
        vocabulary: tokens that the model embeds; None where it is not known.
    Raises:
        InputError: if a split gives no example, or a token lies outside the vocabulary.
    """
    files = {name: token_file(source, layout.tokenizer) for name, source in parts.items() if source is not None}
    for file in files.values():
        if vocabulary is not None and file.largest >= vocabulary:
            raise InputError(
                f"data {layout.where!r}: tokenizer {layout.tokenizer.name!r} gives a token {file.largest}, and the "
                f"model embeds {vocabulary}; name the model's own with --data-arg tokenizer=DIR"
            )
    found = {name: (file, np.arange(len(file))) for name, file in files.items()}
    train, everything = found["train"]
    missing = [name for name in ("test", "val") if name not in found]
    note = ""
    if missing and len(train) < _FEW:
        return _by_position(found, layout, missing)
    if missing:
        found |= _by_mark(train, everything, missing)
        note = f"of {len(train):,} documents, {_counted(found, missing)}, chosen by a hash of their text"
    splits = {name: _examples(file, chosen, layout) for name, (file, chosen) in found.items()}
    if missing and not all(map(len, splits.values())):
        return _by_position({name: (file, np.arange(len(file))) for name, file in files.items()}, layout, missing)
    return _splits(splits, note, layout)


def _by_mark(file: TokenFile, everything: np.ndarray, missing: list[str]) -> dict[str, Any]:
    """Documents of the splits that are missing, and what is left to train."""
    marks = file.marks
    wanted = {"test": marks < _TEST, "val": (marks >= _TEST) & (marks < _VAL)}
    left = ~np.any([wanted[name] for name in missing], 0)
    return {"train": (file, everything[left]), **{name: (file, everything[wanted[name]]) for name in missing}}


def _counted(found: Mapping[str, Any], missing: list[str]) -> str:
    return " and ".join(f"{len(found[name][1]):,} are {name}" for name in missing)


def _by_position(found: Mapping[str, Any], layout: Layout, missing: list[str]) -> Splits:
    """Splits of too few documents to be divided: their last examples are held out."""
    splits = {name: _examples(file, chosen, layout, limited=False) for name, (file, chosen) in found.items()}
    whole, end = splits["train"], len(splits["train"])
    for name in missing:
        count = max(1, len(whole) // 10)
        splits[name] = _limited(whole.subset(torch.arange(max(end - count, 0), max(end, 0))), layout)
        end -= count
    splits["train"] = _limited(whole.subset(torch.arange(max(end, 0))), layout)
    held = " and ".join(f"{len(splits[name])} {name}" for name in missing)
    return _splits(splits, f"the last examples of the text are held out: {held}", layout)


def _splits(splits: Mapping[str, Any], note: str, layout: Layout) -> Splits:
    for name, split in splits.items():
        if not len(split):
            raise InputError(
                f"data {layout.where!r}: split {name} holds less text than one example of {layout.length} tokens; give "
                "more, or a smaller --data-arg length="
            )
    what = {"causal": "blocks", "seq2seq": "pairs"}.get(layout.kind, "chunks")
    sizes = ", ".join(f"{len(splits[name]):,} {name}" for name in ("train", "val", "test"))
    lines = f"{what} of {layout.length} tokens: {sizes}"
    task = "language" if layout.kind in LANGUAGE_KINDS else None
    return Splits(
        splits["train"], splits["test"], splits["val"], None, f"{lines}; {note}" if note else lines, task=task
    )


def _examples(file: TokenFile, chosen: np.ndarray, layout: Layout, *, limited: bool = True) -> Any:
    split = _MAKERS.get(layout.kind, _chunks)(file, chosen, layout)
    return _limited(split, layout) if limited else split


def _limited(split: Any, layout: Layout) -> Any:
    """At most so many examples as are asked for, spread over the split."""
    if layout.samples is None or len(split) <= layout.samples:
        return split
    return split.subset(torch.linspace(0, len(split) - 1, layout.samples, dtype=torch.float64).round().long())


def _packed(file: TokenFile, chosen: np.ndarray, layout: Layout) -> PackedBlocks:
    stream = Stream.of(file.ids, file.bounds[chosen], file.bounds[chosen + 1])
    prefix = layout.tokenizer.prefix
    count = len(stream) // (layout.length - len(prefix))
    return PackedBlocks(stream, layout.length, prefix, np.arange(count), layout.named)


def _chunks(file: TokenFile, chosen: np.ndarray, layout: Layout) -> Chunks:
    found = layout.tokenizer
    around = len(found.prefix) + len(found.suffix)
    spans = _spans(file, chosen, layout.length - around)
    mask = found.mask if layout.kind == "masked" else None
    longest = int(np.diff(file.bounds).max(initial=1)) - file.separated
    length = min(layout.length, -(-(longest + around) // 8) * 8)  # texts that all are short need no longer examples
    return Chunks(
        file.ids, spans, np.arange(len(spans)), length, found.prefix, found.suffix, found.pad or 0, mask, found.size
    )


def _pairs(file: TokenFile, chosen: np.ndarray, layout: Layout) -> Pairs:
    """Pairs of the data; of single texts the first half of a chunk is the encoder's, the second the decoder's."""
    found = layout.tokenizer
    starts, middles, stops = file.bounds[chosen], file.middles[chosen], file.bounds[chosen + 1]
    if len(chosen) and bool((middles < stops).all()):
        spans = np.stack([starts, middles, stops - file.separated], 1)
    else:
        chunks = _spans(file, chosen, 2 * (layout.length - len(found.suffix)))
        chunks = chunks[chunks[:, 1] - chunks[:, 0] > 1]
        spans = np.stack([chunks[:, 0], chunks.sum(1) // 2, chunks[:, 1]], 1)
    return Pairs(file.ids, spans, layout.length, found.suffix, found.pad or 0, layout.start)


def _spans(file: TokenFile, chosen: np.ndarray, room: int) -> np.ndarray:
    """Parts of documents of at most `room` tokens, (n, 2)."""
    rows: list[tuple[int, int]] = []
    for document in chosen.tolist():
        start, stop = int(file.bounds[document]), int(file.bounds[document + 1]) - file.separated
        rows += [(place, min(place + room, stop)) for place in range(start, stop, room)]
    return np.asarray(rows, np.int64).reshape(-1, 2)


_MAKERS: dict[TextKind, Any] = {"causal": _packed, "seq2seq": _pairs}
