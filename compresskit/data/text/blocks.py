"""Examples of tokens: packed blocks of next tokens, padded chunks with hidden tokens, pairs of texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

#: of targets that no loss or metric counts
IGNORED = -100
_HIDDEN_SHARE = 0.15  # of the tokens of a chunk, as BERT hides them
_MASKED, _RANDOM = 0.8, 0.1  # of these; the others stay what they are
_SEED = 20180908


@dataclass(frozen=True)
class Stream:
    """Pieces of a token file, read as one row of tokens.

    Attributes:
        ids: all tokens of the file.
        starts: where the pieces begin, (pieces,).
        ends: where the pieces of the row end in the row, (pieces,).
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Stream:
        """The pieces from `starts` to `stops` of a file."""
        return cls(ids, starts, np.cumsum(stops - starts))

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens of the row from `start` to `stop`, (stop - start,) int64."""
        found = []
        piece = int(np.searchsorted(self.ends, start, "right"))
        while start < stop:
            begins = int(self.ends[piece - 1]) if piece else 0
            upto = min(stop, int(self.ends[piece]))
            place = int(self.starts[piece]) + start - begins
            found.append(self.ids[place : place + upto - start])
            start, piece = upto, piece + 1
        return np.concatenate(found).astype(np.int64) if found else np.zeros(0, np.int64)


@dataclass(frozen=True)
class PackedBlocks:
    """Blocks of one length, each with the tokens that follow its tokens as targets; no token is padding.

    Attributes:
        stream: the tokens.
        length: tokens a block, those of `prefix` among them.
        prefix: special tokens at the head of every block.
        numbers: which blocks of the stream, (n,).
        named: whether inputs are a mapping, as transformers' models take it, or one tensor.
    """

    stream: Stream
    length: int
    prefix: tuple[int, ...]
    numbers: np.ndarray
    named: bool
    draws: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Tokens (batch, length), and the next ones (batch, length), of which the last is not counted."""
        step = self.length - len(self.prefix)
        places = self.numbers[indices.numpy()] * step
        rows = np.stack([np.concatenate([self.prefix, self.stream.read(at, at + step)]) for at in places])
        ids = torch.from_numpy(rows.astype(np.int64))
        targets = torch.cat([ids[:, 1:], ids.new_full((len(ids), 1), IGNORED)], 1)
        targets[:, : max(len(self.prefix) - 1, 0)] = IGNORED
        return {"input_ids": ids} if self.named else ids, targets

    def subset(self, indices: Tensor) -> PackedBlocks:
        """Fewer of the blocks."""
        return replace(self, numbers=self.numbers[indices.numpy()])


@dataclass(frozen=True)
class Chunks:
    """Parts of documents between special tokens, padded to one length; some of their tokens are hidden.

    Attributes:
        ids: all tokens of the file.
        spans: where each chunk begins and ends, (n, 2).
        numbers: of the chunks, which decide what is hidden of them, (n,).
        length: tokens an example, padding among them.
        prefix, suffix: special tokens around a chunk.
        pad: fills up.
        mask: hides a token; None hides none, and then there are no targets.
        vocabulary: tokens that may stand in the place of a hidden one.
    """

    ids: np.ndarray
    spans: np.ndarray
    numbers: np.ndarray
    length: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int
    mask: int | None
    vocabulary: int
    draws: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.spans)

    def take(self, indices: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Tokens and attention mask (batch, length), and the hidden tokens (batch, length) where any are hidden."""
        rows = [self._row(self.ids[start:stop]) for start, stop in self.spans[indices.numpy()]]
        inputs = padded(rows, self.length, self.pad)
        if self.mask is None:
            return inputs, None
        targets = torch.full_like(inputs["input_ids"], IGNORED)
        for number, index in enumerate(indices.tolist()):
            count = len(rows[number]) - len(self.prefix) - len(self.suffix)
            self._hide(inputs["input_ids"][number], targets[number], count, int(self.numbers[index]))
        return inputs, targets

    def subset(self, indices: Tensor) -> Chunks:
        """Fewer of the chunks."""
        chosen = indices.numpy()
        return replace(self, spans=self.spans[chosen], numbers=self.numbers[chosen])

    def _row(self, tokens: np.ndarray) -> np.ndarray:
        return np.concatenate([self.prefix, tokens, self.suffix]).astype(np.int64)

    def _hide(self, ids: Tensor, targets: Tensor, count: int, number: int) -> None:
        """Hide tokens of a chunk, the same ones in every run.

        Source: Devlin et al., "BERT", NAACL 2019, section 3.1.
        """
        generator = torch.Generator().manual_seed(_SEED + number)
        chosen = torch.randperm(count, generator=generator)[: max(1, round(count * _HIDDEN_SHARE))]
        chosen = chosen + len(self.prefix)
        kind = torch.rand(len(chosen), generator=generator)
        others = torch.randint(self.vocabulary, (len(chosen),), generator=generator)
        targets[chosen] = ids[chosen]
        hidden = torch.where(kind < _MASKED, torch.full_like(others, self.mask or 0), ids[chosen])
        ids[chosen] = torch.where((kind >= _MASKED) & (kind < _MASKED + _RANDOM), others, hidden)


@dataclass(frozen=True)
class Pairs:
    """A text for the encoder and one for the decoder, which is given its own tokens one place later.

    Attributes:
        ids: all tokens of the file.
        spans: where each pair begins, where its second text does, and where it ends, (n, 3).
        length: tokens of each side, padding among them.
        suffix: special tokens behind a text.
        pad: fills up.
        start: the decoder's first token.
    """

    ids: np.ndarray
    spans: np.ndarray
    length: int
    suffix: tuple[int, ...]
    pad: int
    start: int
    draws: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.spans)

    def take(self, indices: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Both sides' tokens (batch, length) and the encoder's mask; targets (batch, length) of the decoder."""
        spans = self.spans[indices.numpy()]
        room = self.length - len(self.suffix)
        first = [np.concatenate([self.ids[a:b][:room], self.suffix]).astype(np.int64) for a, b, _ in spans]
        second = [np.concatenate([self.ids[b:c][:room], self.suffix]).astype(np.int64) for _, b, c in spans]
        inputs = padded(first, self.length, self.pad)
        wanted = padded(second, self.length, self.pad)
        targets = wanted["input_ids"].masked_fill(wanted["attention_mask"] == 0, IGNORED)
        start = wanted["input_ids"].new_full((len(spans), 1), self.start)
        return {**inputs, "decoder_input_ids": torch.cat([start, wanted["input_ids"][:, :-1]], 1)}, targets

    def subset(self, indices: Tensor) -> Pairs:
        """Fewer of the pairs."""
        return replace(self, spans=self.spans[indices.numpy()])


def padded(rows: list[np.ndarray], length: int, pad: int) -> dict[str, Tensor]:
    """Rows of tokens filled up behind their ends.

    Returns:
        input_ids and attention_mask, (rows, length) int64.
    """
    ids = torch.full((len(rows), length), pad, dtype=torch.int64)
    mask = torch.zeros(len(rows), length, dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.from_numpy(row)
        mask[number, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
