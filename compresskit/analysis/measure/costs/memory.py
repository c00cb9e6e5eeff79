"""The memory that activations take at their peak."""

from __future__ import annotations

from ....core.types import Inputs, Loaded
from ..measure import peak_memory_bytes
from ..work import Work


def peak_bytes(loaded: Loaded, inputs: Inputs) -> int | None:
    """Peak of bytes allocated by one forward, on top of weights and inputs; None where that can't be measured."""
    return peak_memory_bytes(loaded.module, inputs)


def predicted_bytes(work: Work) -> float:
    """What a peak is taken to be in proportion to, until it is measured: bytes that layers write."""
    return float(work.activation_bytes)
