"""What is wrong with what a user's own row of the data's registries returned; "" where nothing is."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def augmented(found: Any, inputs: Tensor, generator: Any) -> str:
    """An augmentation returns inputs of the same shape."""
    if isinstance(found, Tensor) and found.shape == inputs.shape:
        return ""
    got = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    return f"must return inputs of the same shape, {list(inputs.shape)}, and returned {got}"
