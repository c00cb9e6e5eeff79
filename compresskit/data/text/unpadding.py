"""Batches without the positions that an attention mask leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ...core.types import Inputs

_MASK = "attention_mask"


def without_padding(batches: Iterable[Inputs]) -> list[Inputs]:
    """The same examples in batches of equal lengths, cut at the end of each, so that no position is padding.

    What layers meet behind the end of a text has no part in any answer, so statistics and ranges of activations are
    better without. Batches without a mask, or with one that leaves out more than ends, stay as they are.

    Args:
        batches: of inputs; a mask is `attention_mask`, (batch, length).
    Returns:
        the batches, those with padding divided by length, in order of the first example of each length.
    """
    return [part for inputs in batches for part in _cut(inputs)]


def _cut(inputs: Inputs) -> list[Inputs]:
    if not isinstance(inputs, Mapping) or _MASK not in inputs:
        return [inputs]
    mask = inputs[_MASK]
    if mask.dim() != 2 or mask.is_floating_point() or mask.all():
        return [inputs]
    lengths = mask.long().sum(1)
    ends = torch.arange(mask.shape[1], device=mask.device) < lengths.unsqueeze(1)
    if not torch.equal(ends, mask != 0) or not lengths.all():
        return [inputs]
    found: list[Inputs] = []
    for length in dict.fromkeys(lengths.tolist()):
        rows = lengths == length
        found.append({key: _rows(value, rows, mask, length) for key, value in inputs.items()})
    return found


def _rows(value: Tensor, rows: Tensor, mask: Tensor, length: int) -> Tensor:
    """Some examples of one input; those that run along the mask end where it does."""
    if value.dim() < 1 or len(value) != len(mask):
        return value
    chosen = value[rows]
    return chosen[:, :length] if value.shape[:2] == mask.shape else chosen
