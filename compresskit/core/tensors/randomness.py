"""The random states of a process, kept over work that must not change what is drawn afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

_Item = TypeVar("_Item")


def manual_seed(seed: int) -> None:
    """`torch.manual_seed`; where there is no accelerator, it leaves no call (with its stack) waiting for one."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def unchanged_random_state(device: torch.device = torch.device("cpu")) -> Iterator[None]:
    """While open, anything may be drawn: Python's, NumPy's and torch's generators are put back afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def same_draws(seed: int = 0) -> Iterator[None]:
    """While open, Python, NumPy and torch (on the CPU) draw the numbers of a seed; afterwards as if none were drawn."""
    with unchanged_random_state():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators too
        yield


def drawn_apart(make: Callable[[], Iterable[_Item]], seed: int) -> Iterator[_Item]:
    """Iterate over what draws from the generators of a seed throughout, whatever is drawn between its items.

    Args:
        make: makes the iterable.
        seed: of Python's, NumPy's and torch's (CPU) generators at its beginning.
    """
    with same_draws(seed):
        items = iter(make())
        states = _states()
    while True:
        with unchanged_random_state():
            _set_states(states)
            try:
                item = next(items)
            except StopIteration:
                return
            states = _states()
        yield item


def _states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_states(states: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def random_states() -> tuple[Any, ...]:
    """States of Python's, NumPy's and torch's generators: equal where equally much was drawn from the same seed."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), (name, np.asarray(keys).tobytes(), *rest), torch.get_rng_state().numpy().tobytes()
