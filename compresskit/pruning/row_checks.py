"""What is wrong with what a user's own row of pruning's registries returned; "" where nothing is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .dependency.graph import Group
from .importance.expert_importance import RoutedOutputs


def scores_of_units(found: Any, group: Group, evidence: Any) -> str:
    """A criterion returns one finite score a unit."""
    return _scores(found, (len(group),), "one a unit")


def scores_of_weights(found: Any, weight: Tensor, evidence: Any) -> str:
    """A saliency returns one finite score a weight."""
    return _scores(found, tuple(weight.shape), "one a weight")


def _scores(found: Any, shape: tuple[int, ...], which: str) -> str:
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        got = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        return f"must return scores of shape {list(shape)}, {which}, and returned {got}"
    if found.is_complex() or found.dtype == torch.bool or not bool(torch.isfinite(found).all()):
        return "must return finite numbers as scores"
    return ""


def scores_of_blocks(found: Any, blocks: Mapping[str, Any], evidence: Any) -> str:
    """A block importance returns a finite number, or a reason, for each block."""
    if not isinstance(found, Mapping) or set(found) != set(blocks):
        return f"must return a number for each block, {{name: number}} with the names {', '.join(blocks)}"
    if not all(isinstance(one, str) or (isinstance(one, int | float) and math.isfinite(one)) for one in found.values()):
        return "must return finite numbers, or the reason why a block must stay"
    return ""


def scores_of_experts(found: Any, routed: RoutedOutputs) -> str:
    """An expert importance returns a finite number for each expert."""
    return _scores(found, tuple(routed.counts.shape), "one an expert")


def kept_shares(found: Any, scores: Mapping[str, Tensor], weights: Any, keep: float) -> str:
    """An allocation returns a share of each layer."""
    if not isinstance(found, Mapping) or set(found) != set(scores):
        return f"must return the share kept of each layer, {{name: share}} with the names {', '.join(scores)}"
    if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in found.values()):
        return "must return shares from 0 to 1"
    return ""


def pools(found: Any, groups: list[Group]) -> str:
    """A scope returns lists of positions, each position once."""
    try:
        positions = sorted(position for pool in found for position in pool)
    except TypeError:
        positions = []
    if positions != list(range(len(groups))):
        return f"must return lists of positions of the {len(groups)} groups, each position in one list"
    return ""


def penalty(found: Any, units: Any, progress: float) -> str:
    """A regularizer returns a scalar tensor."""
    return "" if isinstance(found, Tensor) and found.dim() == 0 else "must return a scalar tensor"
