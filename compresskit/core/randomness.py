"""The random states of a process, kept over work that must not change what is drawn afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
