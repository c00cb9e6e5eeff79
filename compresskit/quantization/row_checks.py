"""What is wrong with what a user's own row of quantization's registries returned; "" where nothing is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .rounding.nearest import Problem


def observer(found: Any, levels: Any, percentile: float) -> str:
    """An observer has `update` and `range`."""
    missing = [name for name in ("update", "range") if not callable(getattr(found, name, None))]
    return (
        f"must make an object with update(values) and range(); {type(found).__name__} lacks {missing[0]}"
        if missing
        else ""
    )


def codes(found: Any, problem: Problem) -> str:
    """A rounding returns codes of the grid, of the matrix's shape."""
    wanted = problem.grid.nearest(problem.matrix)
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        got = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        return f"must return codes of shape {list(wanted.shape)}, and returned {got}"
    if found.is_floating_point() and not torch.equal(found, found.round()):
        return "must return whole numbers, the codes of the grid's levels"
    return ""


def centroids(found: Any, ordered: Tensor, count: int, generator: Any) -> str:
    """A start of k-means returns `count` values."""
    return "" if isinstance(found, Tensor) and found.shape == (count,) else f"must return {count} values"
