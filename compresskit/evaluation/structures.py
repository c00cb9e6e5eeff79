"""Outputs of any structure: all of their tensors, and the same structure with other ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ..core.types import children


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The same structure with a function applied to each tensor; dataclasses become mappings."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, tuple | list):
        # a named tuple becomes a tuple
        return (list if isinstance(batch, list) else tuple)(map_tensors(function, value) for value in batch)
    parts = children(batch)
    return {name: map_tensors(function, value) for name, value in parts} if parts else batch


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """All tensors of a structure, depth first."""
    if isinstance(batch, Tensor):
        yield batch
    for _, value in children(batch):
        yield from tensors_in(value)


def in_columns(outputs: Any, count: int) -> Any:
    """Outputs in which a list of whole batches (one of each head) is a tuple: a list has one entry an example.

    Args:
        outputs: what a model returned for a batch.
        count: examples in the batch.
    """
    is_list = isinstance(outputs, list) and outputs and len(outputs) != count
    if is_list and all(isinstance(part, Tensor) and part.dim() and len(part) == count for part in outputs):
        return tuple(outputs)
    return outputs
