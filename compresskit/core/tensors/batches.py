"""Batches of any structure: counted, divided into examples, and joined again.

In a batch, the first dimension of a tensor counts examples; mappings and tuples hold columns, each with one entry an
example; a list holds one entry an example (images of several sizes, boxes of a detection), whatever that entry is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


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


def tensors_of(inputs: Any) -> list[Tensor]:
    """Every tensor of nested tuples, lists and mappings, in order."""
    if isinstance(inputs, Tensor):
        return [inputs]
    if isinstance(inputs, Mapping):
        return [tensor for value in inputs.values() for tensor in tensors_of(value)]
    if isinstance(inputs, tuple | list):
        return [tensor for value in inputs for tensor in tensors_of(value)]
    return []


def map_tensors(inputs: Any, function: Any) -> Any:
    """The same structure of tuples, lists and mappings with a function of each tensor in its place."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {key: map_tensors(value, function) for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        mapped = [map_tensors(value, function) for value in inputs]
        return mapped if isinstance(inputs, list) else tuple(mapped)
    return inputs
