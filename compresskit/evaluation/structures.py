"""Outputs of any structure as columns: what counts examples, and what only lists them."""

from __future__ import annotations

from typing import Any

from torch import Tensor


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
