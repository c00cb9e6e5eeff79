"""Examples that can only be read from the beginning: nothing is kept but a window, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from ...core.errors import InputError
from ...core.tensors.randomness import same_draws
from ...core.user_code.user_imports import guarded
from ..collate import Collate, Pair, input_name, pair_of
from ..worker_processes import Workers, streamed
from .examples import examples_of, joined

#: examples among which a stream is shuffled, and the bytes that their tensors may take
WINDOW = 1024
WINDOW_BYTES = 128 << 20

Examples = Iterable[Any]


@dataclass(frozen=True)
class EveryNth:
    """Every `every`th example of a stream, at most `most` of them; or, where not `chosen`, all the others."""

    every: int
    chosen: bool
    most: int | None = None

    def __call__(self, examples: Examples) -> Iterator[Any]:
        taken = 0
        for position, example in enumerate(examples):
            hit = position % self.every == self.every - 1 and (self.most is None or taken < self.most)
            taken += hit
            if hit == self.chosen:
                yield example


@dataclass
class StreamSplit:
    """Examples in the order in which they are read; each pass reads them anew.

    Attributes:
        passes: (epoch, processes) -> the examples of one pass, raw.
        collate: a list of raw examples -> (inputs, targets).
        where: what errors call it.
        parts: which examples, each part taken from what the one before it left.
        size: number of examples that the source says it has; None counts them in a pass of its own, when asked.
        workers: the processes of the DataLoader that it came with.
        own_processes: whether `passes` starts the processes itself; else one makes batches ahead, so that their order
            is the stream's own.
        first: () -> its first example or batch as the source gives it; for its names.
    """

    passes: Callable[[int, Workers], Examples]
    collate: Callable[[list[Any]], Pair]
    where: str
    parts: tuple[EveryNth, ...] = ()
    size: int | None = None
    workers: Workers = Workers()
    own_processes: bool = False
    first: Callable[[], Any] = tuple
    _counted: dict[int | None, int] = field(default_factory=dict)

    def part(self, part: EveryNth) -> StreamSplit:
        """Some of its examples."""
        return replace(self, parts=(*self.parts, part), _counted={})

    def count(self, limit: int | None = None) -> int:
        """Number of examples, at most `limit`; counted in one pass where the source does not say it."""
        if limit not in self._counted:
            if self.size is not None:
                examples: Examples = range(self.size)
                for part in self.parts:
                    examples = part(examples)
            else:
                examples = self.examples(0, Workers())
            with same_draws():
                self._counted[limit] = sum(1 for _ in islice(examples, limit))
        return self._counted[limit]

    def examples(self, epoch: int, workers: Workers) -> Iterator[Any]:
        """The raw examples of one pass."""
        with guarded(f"data {self.where}", "while it was read"):
            examples: Examples = self.passes(epoch, workers)
            for part in self.parts:
                examples = part(examples)
            yield from examples

    def input_name(self) -> str:
        """What the data calls its only input; "" where it has several, or no names."""
        with guarded(f"data {self.where}", "while it was read"), same_draws():
            return input_name(self.first())

    def collated(self, examples: list[Any]) -> Pair:
        """(inputs, targets) of raw examples."""
        with guarded(f"data {self.where}", "while examples were read"):
            return self.collate(examples)


def shuffled(examples: Iterator[Any], generator: torch.Generator) -> Iterator[Any]:
    """Examples in random order: each is drawn from a window of those that were read last."""
    window: list[Any] = []
    size_bytes = 0
    for example in examples:
        if len(window) < WINDOW and size_bytes < WINDOW_BYTES:
            window.append(example)
            size_bytes += _bytes_of(example)
            continue
        place = int(torch.randint(len(window), (1,), generator=generator))
        yield window[place]
        window[place] = example
    yield from (window[place] for place in torch.randperm(len(window), generator=generator).tolist())


def of_iterable(dataset: Any, where: str, function: Any = None, loader: DataLoader[Any] | None = None) -> StreamSplit:
    """A stream of an IterableDataset, read by the processes of its loader where it has one.

    Args:
        dataset: gives one example after another, or (with a loader whose batch_size is None) one batch after another.
        where: what errors call it.
        function: a list of examples -> a batch; None takes the loader's, else the one that fits.
        loader: how the dataset is read; None reads it in this process.
    """
    whole = loader is None or loader.batch_size is not None
    at_once = None if loader is None else loader.batch_size

    def passes(epoch: int, asked: Workers) -> Examples:
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(epoch)
        return streamed(lambda: dataset, asked, f"data {where}", at_once=at_once, seed=epoch)

    workers = Workers() if loader is None else workers_of(loader)
    if loader is not None and not whole:
        return of_batches(lambda epoch, asked: map(loader.collate_fn, passes(epoch, asked)), where, workers, True)
    with same_draws():
        first = list(islice(passes(0, Workers()), 2))
    if not first:
        raise InputError(f"data {where} is empty")
    collate = Collate.fitting(function or (None if loader is None else loader.collate_fn), first, where)
    own, size = loader is not None, _length(dataset)
    return StreamSplit(passes, collate, where, (), size, workers, own, lambda: first[0])


def of_batches(
    passes: Callable[[int, Workers], Examples], where: str, workers: Workers = Workers(), own_processes: bool = False
) -> StreamSplit:
    """A stream of ready batches, which come apart into examples and together again in the size that is asked for."""

    def examples(epoch: int, asked: Workers) -> Iterator[Pair]:
        for batch in passes(epoch, asked):
            yield from examples_of(pair_of(batch, where), where)

    def first() -> Any:
        return next(iter(passes(0, Workers())), None)

    return StreamSplit(examples, lambda pairs: joined(pairs, where), where, (), None, workers, own_processes, first)


def workers_of(loader: DataLoader[Any]) -> Workers:
    """The processes of a user's loader."""
    return Workers(
        loader.num_workers,
        loader.prefetch_factor,
        loader.timeout,
        loader.worker_init_fn,
        loader.multiprocessing_context,
        loader.dataset,
    )


def _bytes_of(example: Any) -> int:
    if isinstance(example, tuple | list):
        return sum(map(_bytes_of, example))
    if isinstance(example, Mapping):
        return sum(map(_bytes_of, example.values()))
    return int(getattr(example, "nbytes", 0))  # of tensors and arrays


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:  # it has none, or says so when it is asked
        return None
