"""Batches of a split: by index or as a stream, in an order that depends only on seed and epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from ..core.tensors.randomness import drawn_apart, same_draws
from .augmentation.transforms import Composed
from .preprocessing import ImageTransform
from .splits.base import Split
from .splits.stream import StreamSplit, shuffled
from .worker_processes import Workers, in_order, streamed

#: (indices of the examples in their split, inputs, targets)
Numbered = tuple[Tensor, Any, Any]

AnySplit = TypeVar("AnySplit", bound=Split | StreamSplit)


@dataclass(frozen=True)
class SplitBatches(Generic[AnySplit]):
    """What batches of a split have in common, whether its examples are read by index or as a stream.

    Attributes:
        split: the examples.
        transform: raw inputs -> what the model takes.
        augment: changes inputs in [0, 1] and what of targets lies on their pixels, before normalization.
        workers: processes that make batches ahead; they change no batch.
        targets_as: changes targets before anything reads them; None leaves them.
        named: the key under which inputs are handed on; "" hands them on as they are.
    """

    split: AnySplit
    batch_size: int
    transform: ImageTransform
    shuffle: bool = False
    seed: int = 0
    epoch: int = 0
    augment: Composed | None = None
    workers: Workers = Workers()
    targets_as: Callable[[Any], Any] | None = None
    named: str = ""

    @property
    def samples(self) -> int:
        """Number of examples."""
        raise NotImplementedError

    def starting_at(self, batch: int) -> Iterator[tuple[Any, Any]]:
        """Iterate from a batch on; what is random in a batch depends only on seed, epoch and its number."""
        raise NotImplementedError

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self.starting_at(0)

    def at_epoch(self, epoch: int) -> Self:
        """The same batches in another epoch's order."""
        return replace(self, epoch=epoch)

    def _finished(self, number: int, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """A batch scaled, augmented, resized and normalized."""
        if self.targets_as is not None:
            targets = self.targets_as(targets)
        if self.augment is not None:
            generator = torch.Generator().manual_seed(_mixed(self.seed, self.epoch, number))
            inputs, targets = self.augment.with_targets(self.transform.scaled(inputs), targets, generator)
        inputs, targets = self.transform.pair(inputs, targets)
        return {self.named: inputs} if self.named else inputs, targets


@dataclass(frozen=True, kw_only=True)
class Batches(SplitBatches[Split]):
    """Batches of one split, in an order that depends only on seed and epoch; iterate as often as needed.

    Attributes:
        indices: which examples, in order.
    """

    indices: Tensor

    @property
    def samples(self) -> int:
        """Number of examples."""
        return len(self.indices)

    def order(self) -> Tensor:
        """The indices in this epoch's order."""
        if not self.shuffle:
            return self.indices
        generator = torch.Generator().manual_seed(_mixed(self.seed, self.epoch))
        return self.indices[torch.randperm(len(self.indices), generator=generator)]

    def starting_at(self, batch: int) -> Iterator[tuple[Any, Any]]:
        """Iterate from a batch on; what is random in a batch depends only on seed, epoch and its number."""
        return in_order(partial(self._batch, self.order()), range(batch, len(self)), self.workers)

    def numbered(self, batch: int = 0) -> Iterator[Numbered]:
        """(indices, inputs, targets) from a batch on."""
        order, size = self.order(), self.batch_size
        for number, (inputs, targets) in enumerate(self.starting_at(batch), batch):
            yield order[number * size : (number + 1) * size], inputs, targets

    def first(self, samples: int) -> Iterator[tuple[Any, Any]]:
        """Batches of the first examples in this epoch's order, made in this process."""
        return iter(replace(self, indices=self.order()[:samples], shuffle=False, workers=Workers()))

    def _batch(self, order: Tensor, number: int) -> tuple[Any, Any]:
        chosen = order[number * self.batch_size : (number + 1) * self.batch_size]
        draws = getattr(self.split, "draws", True)  # a Dataset of the user's may use the global generators
        with same_draws(_mixed(self.seed, self.epoch, number, 1)) if draws else nullcontext():
            inputs, targets = self.split.take(chosen)
        return self._finished(number, inputs, targets)


@dataclass(frozen=True, kw_only=True)
class StreamBatches(SplitBatches[StreamSplit]):
    """Batches of a stream, read from its beginning in each pass; shuffled within a window of its examples.

    Attributes:
        limit: only the first examples; None takes all.
    """

    limit: int | None = None

    @property
    def samples(self) -> int:
        """Number of examples; counted in a pass over the stream where it does not say it."""
        return self.split.count(self.limit)

    def order(self) -> Tensor:
        """The examples' numbers in the order in which the stream gives them."""
        return torch.arange(self.samples)

    def starting_at(self, batch: int) -> Iterator[tuple[Any, Any]]:
        """Iterate from a batch on; what comes before it is read and dropped."""
        return ((inputs, targets) for _, inputs, targets in self.numbered(batch))

    def numbered(self, batch: int = 0) -> Iterator[Numbered]:
        """(numbers of the examples, inputs, targets) from a batch on."""
        if self.split.own_processes or not self.workers.count:
            yield from self._apart(batch)
            return
        yield from islice(self._apart(batch), 1)  # a look at one batch starts no process
        yield from streamed(partial(self._apart, batch + 1), replace(self.workers, count=1), f"data {self.split.where}")

    def first(self, samples: int) -> Iterator[tuple[Any, Any]]:
        """Batches of the first examples in this epoch's order, made in this process."""
        return ((inputs, targets) for _, inputs, targets in self._apart(0, samples))

    def _apart(self, batch: int, samples: int | None = None) -> Iterator[Numbered]:
        """Batches that are read with random numbers of their own."""
        return drawn_apart(partial(self._read, batch, samples), _mixed(self.seed, self.epoch))

    def _read(self, batch: int, samples: int | None) -> Iterator[Numbered]:
        processes = self.workers if self.split.own_processes else Workers()
        examples: Iterator[Any] = islice(enumerate(self.split.examples(self.epoch, processes)), self.limit)
        if self.shuffle:
            examples = shuffled(examples, torch.Generator().manual_seed(_mixed(self.seed, self.epoch)))
        examples = islice(examples, batch * self.batch_size, samples)
        for number in count(batch):
            chosen = list(islice(examples, self.batch_size))
            if not chosen:
                break
            with same_draws(_mixed(self.seed, self.epoch, number, 1)):
                inputs, targets = self.split.collated([example for _, example in chosen])
            yield torch.tensor([place for place, _ in chosen]), *self._finished(number, inputs, targets)


def _mixed(*numbers: int) -> int:
    """One seed out of several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number) % (1 << 63)
    return mixed
