"""Batches made ahead of their use, by the worker processes of torch's DataLoader."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from ..core.errors import CompresskitError, InputError, first_line
from ..core.user_code.user_imports import guarded

_Batch = TypeVar("_Batch")
#: forked workers need no pickling, so a Dataset that is a closure or was defined in a notebook works in them
_START_METHOD = "fork" if sys.platform == "linux" else None


@dataclass(frozen=True)
class Workers:
    """Processes that make batches ahead; the fields after the first are those of a user's DataLoader.

    Attributes:
        count: processes; 0 makes each batch in this process, when it is asked for.
        prefetch_factor: batches that each process makes ahead; None takes DataLoader's default.
        timeout: seconds to wait for a batch; 0 waits for ever.
        worker_init_fn: called with its number in each process that starts.
        multiprocessing_context: how processes start; None takes fork on Linux.
        dataset: what `torch.utils.data.get_worker_info().dataset` is for worker_init_fn.
    """

    count: int = 0
    prefetch_factor: int | None = None
    timeout: float = 0
    worker_init_fn: Callable[[int], None] | None = None
    multiprocessing_context: Any = None
    dataset: Any = None


@dataclass(frozen=True)
class _Failure:
    """An error line on its way to the main process; DataLoader would wrap its exception into a traceback's text."""

    kind: type[CompresskitError]
    message: str


class _InWorker:
    """What begins in a worker as the user's own DataLoader would begin."""

    workers: Workers
    failure: _Failure | None = None  # of worker_init_fn

    def begin(self, worker: int) -> None:
        """Run the user's worker_init_fn: it may change its copy of the data set."""
        if self.workers.worker_init_fn is None:
            return
        object.__setattr__(get_worker_info(), "dataset", self.workers.dataset)  # read-only otherwise
        try:
            with guarded("the DataLoader's worker_init_fn"):
                self.workers.worker_init_fn(worker)
        except CompresskitError as error:
            self.failure = _Failure(type(error), str(error))


class _Made(_InWorker, Dataset, Generic[_Batch]):
    """Batches by number, in a worker."""

    def __init__(self, make: Callable[[int], _Batch], workers: Workers):
        self.make, self.workers = make, workers

    def __getitem__(self, number: int) -> _Batch | _Failure:
        if self.failure is not None:
            return self.failure
        try:
            return self.make(number)
        except CompresskitError as error:
            return _Failure(type(error), str(error))


class _Stream(_InWorker, IterableDataset, Generic[_Batch]):
    """Whatever an iterable gives, in a worker; its failure is the last item."""

    def __init__(self, make: Callable[[], Iterable[_Batch]], workers: Workers, where: str):
        self.make, self.workers, self.where = make, workers, where

    def __iter__(self) -> Iterator[_Batch | _Failure]:
        if self.failure is not None:
            yield self.failure
            return
        try:
            with guarded(self.where, "while it was read"):
                yield from self.make()
        except CompresskitError as error:
            yield _Failure(type(error), str(error))


def streamed(
    make: Callable[[], Iterable[_Batch]], workers: Workers, where: str, *, at_once: int | None = None, seed: int = 0
) -> Iterator[_Batch]:
    """What an iterable gives, read ahead by processes; each of them iterates over a copy of its own.

    Args:
        make: makes the iterable, in each process.
        workers: who reads; a process that may not have children reads it itself.
        where: what errors call it.
        at_once: items that a process sends together; None sends each by itself.
        seed: of the processes' generators of random numbers.
    Raises:
        InputError: what reading raises, or if the workers die or fail to start.
    """
    if workers.count < 1 or multiprocessing.current_process().daemon:
        with guarded(where, "while it was read"):
            yield from make()
        return
    for sent in _read(_Stream(make, workers, where), workers, batch_size=at_once, seed=seed):
        for item in sent if at_once is not None else [sent]:
            if isinstance(item, _Failure):
                raise item.kind(item.message)
            yield item


def in_order(make: Callable[[int], _Batch], numbers: Sequence[int], workers: Workers) -> Iterator[_Batch]:
    """`make(number)` for each number, in order, made ahead where there are workers.

    The first batch is made in this process and the workers start with the second, so that a look at one batch starts
    none. This process's generators of random numbers are not touched.

    Args:
        make: makes one batch, the same whenever and wherever it runs.
        numbers: which batches.
        workers: who makes them; a process that may not have children makes them itself.
    Raises:
        InputError: what `make` raises, or if the workers die or fail to start.
    """
    count = min(workers.count, len(numbers) - 1)
    if count < 1 or multiprocessing.current_process().daemon:
        yield from map(make, numbers)
        return
    yield make(numbers[0])
    for batch in _read(_Made(make, workers), replace(workers, count=count), sampler=numbers[1:]):
        if isinstance(batch, _Failure):
            raise batch.kind(batch.message)
        yield batch


def _read(
    made: Any, workers: Workers, *, sampler: Sequence[int] | None = None, batch_size: int | None = None, seed: int = 0
) -> Iterator[Any]:
    try:
        with _as_before():
            batches = iter(_loader(made, workers, sampler, batch_size, seed))
    except Exception as error:  # what cannot be pickled where processes are spawned, no more processes, ...
        raise _failed(error) from error
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError) as error:  # EOFError: it died while it handed a batch over
            if "in DataLoader worker process" in str(error):  # raised by code in a worker, not by its end
                raise
            raise _failed(error) from error
        yield batch


def _loader(
    made: Any, workers: Workers, sampler: Sequence[int] | None, batch_size: int | None, seed: int
) -> DataLoader[Any]:
    return DataLoader(
        made,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers.count,
        collate_fn=_unchanged,
        prefetch_factor=workers.prefetch_factor,
        timeout=workers.timeout,
        worker_init_fn=made.begin,
        multiprocessing_context=workers.multiprocessing_context or _START_METHOD,
        generator=torch.Generator().manual_seed(seed),  # else each pass would draw a seed from torch's global generator
    )


@contextmanager
def _as_before() -> Iterator[None]:
    """Keep DataLoader's warning of more workers than cores and its handler of signals out.

    The user asked for the workers, and some wait for a disk. The handler would raise a worker's death anywhere in this
    process; the next batch finds it as well.
    """
    signals = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if signals else None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")
            yield
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


def _failed(error: Exception) -> InputError:
    return InputError(
        f"the worker processes that read the data failed ({first_line(error)[:200]}); with workers 0 the data is read "
        "in the main process"
    )


def _unchanged(batch: Any) -> Any:
    return batch
