"""What surrounds a call from Python: its objects by name, a silent stdout, and a process left as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import InputError
from ..core.reporting.progress import stderr_log
from ..core.reporting.results import only_results_on_stdout, result_stream
from ..core.tensors.randomness import unchanged_random_state
from ..core.user_code.in_memory import named_objects

if TYPE_CHECKING:
    from .types import Progress

Log = Callable[[str], None]
_one_at_a_time = threading.RLock()  # a progress function may call again


@contextmanager
def session(objects: dict[str, Any], progress: Progress) -> Iterator[Log]:
    """While open, objects have their names; random states, threads and gradient mode are put back afterwards.

    Prints of models and data go to stderr. All of these belong to the process, so a call from another thread waits.

    Args:
        objects: by name.
        progress: where lines of progress go.
    Yields:
        a function that takes a line of progress.
    """
    log = logger(progress)
    with _one_at_a_time:
        threads = torch.get_num_threads()
        try:
            with (
                named_objects(objects),
                only_results_on_stdout(),
                unchanged_random_state(),
                torch.inference_mode(False),
                torch.enable_grad(),
            ):
                yield log
        finally:
            torch.set_num_threads(threads)


def logger(progress: Progress) -> Log:
    """The function that a `progress` argument stands for.

    Raises:
        InputError: if it is neither "rich", a function, nor None.
    """
    if progress is None:
        return lambda line: None
    if progress == "rich":
        return stderr_log()
    if not callable(progress):
        raise InputError(f"progress is 'rich', a function of one line, or None, not {progress!r}")
    return _on_stdout(progress)


def _on_stdout(callback: Log) -> Log:
    """A callback that prints where its caller's prints go."""

    def log(line: str) -> None:
        with redirect_stdout(result_stream()):
            callback(line)

    return log
