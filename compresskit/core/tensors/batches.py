"""Batches of any structure: counted, divided into examples, and joined again.

In a batch, the first dimension of a tensor counts examples; mappings and tuples hold columns, each with one entry an
example; a list holds one entry an example (images of several sizes, boxes of a detection), whatever that entry is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..types import children

#: keys of a batch's targets, where a batch is a mapping
TARGETS = ("labels", "label", "targets", "target", "y")


def count_examples(batch: Any) -> int:
    """Number of examples in inputs or targets; 0 where nothing in them counts any."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 0
    if isinstance(batch, list):
        return len(batch)
    columns = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple) else ()
    return next((count for column in columns if (count := count_examples(column))), 0)


def pick(batch: Any, indices: Tensor) -> Any:
    """Some examples of a batch, in the order of `indices`, (examples,) int64."""
    if isinstance(batch, Tensor):
        return batch[indices] if batch.dim() else batch
    if isinstance(batch, list):
        return [batch[index] for index in indices.tolist()]
    if isinstance(batch, Mapping):
        return {name: pick(column, indices) for name, column in batch.items()}
    if isinstance(batch, tuple):
        return tuple(pick(column, indices) for column in batch)
    return batch


def divided(batch: Any) -> list[Any]:
    """Each example of a batch as a batch of one."""
    return [pick(batch, torch.tensor([number])) for number in range(count_examples(batch))]


def join(batches: Sequence[Any]) -> Any:
    """One batch of the examples of several that have one structure.

    Raises:
        RuntimeError: if tensors differ in shape beyond their first dimension.
    """
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches)) if first.dim() else first
    if isinstance(first, list):
        return [example for batch in batches for example in batch]
    if isinstance(first, Mapping):
        return {name: join([batch[name] for batch in batches]) for name in first}
    if isinstance(first, tuple):
        return tuple(join(columns) for columns in zip(*batches, strict=True))
    return first


def tensors_of(batch: Any) -> list[Tensor]:
    """Every tensor of nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(batch, Tensor):
        return [batch]
    return [tensor for _, value in children(batch) for tensor in tensors_of(value)]


def map_tensors(batch: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same structure with a function of each tensor in its place; named tuples become tuples, dataclasses dicts."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, tuple | list):
        return (list if isinstance(batch, list) else tuple)(map_tensors(value, function) for value in batch)
    parts = batch.items() if isinstance(batch, Mapping) else children(batch)
    return {name: map_tensors(value, function) for name, value in parts} if parts else batch
