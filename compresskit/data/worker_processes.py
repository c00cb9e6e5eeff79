"""Batches made ahead of their use, by the worker processes of torch's DataLoader."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

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


class _Made(Dataset, Generic[_Batch]):
    """Batches by number, in a worker."""

    def __init__(self, make: Callable[[int], _Batch], workers: Workers):
        self.make, self.workers = make, workers
        self.failure: _Failure | None = None  # of worker_init_fn

    def begin(self, worker: int) -> None:
        """Run the user's worker_init_fn as the user's own DataLoader would: it may change its copy of the data set."""
        if self.workers.worker_init_fn is None:
            return
        object.__setattr__(get_worker_info(), "dataset", self.workers.dataset)  # read-only otherwise
        try:
            with guarded("the DataLoader's worker_init_fn"):
                self.workers.worker_init_fn(worker)
        except CompresskitError as error:
            self.failure = _Failure(type(error), str(error))

    def __getitem__(self, number: int) -> _Batch | _Failure:
        if self.failure is not None:
            return self.failure
        try:
            return self.make(number)
        except CompresskitError as error:
            return _Failure(type(error), str(error))


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
    for batch in _read(_Made(make, workers), numbers[1:], replace(workers, count=count)):
        if isinstance(batch, _Failure):
            raise batch.kind(batch.message)
        yield batch


def _read(made: _Made[_Batch], numbers: Sequence[int], workers: Workers) -> Iterator[_Batch | _Failure]:
    try:
        with _as_before():
            batches = iter(_loader(made, numbers, workers))
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


def _loader(made: _Made[Any], numbers: Sequence[int], workers: Workers) -> DataLoader[Any]:
    return DataLoader(
        made,
        batch_size=None,
        sampler=numbers,
        num_workers=workers.count,
        collate_fn=_unchanged,
        prefetch_factor=workers.prefetch_factor,
        timeout=workers.timeout,
        worker_init_fn=made.begin,
        multiprocessing_context=workers.multiprocessing_context or _START_METHOD,
        generator=torch.Generator(),  # else each pass would draw a seed from torch's global generator
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
