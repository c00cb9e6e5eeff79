"""Sparsity of each layer by what its zeros do to the model's output, under one budget of weights, solved exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from ...analysis.allocation.allocate import allocate_rounded

#: shares of a layer's weights at which its error is measured
DENSITIES = (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
_BINS = 4000  # the budget in equal parts: 0.025 % each
_ROWS = 256  # outputs of a layer that are looked at; the errors of others are alike


def error_curve(
    weight: Tensor, second_moment: Tensor, sensitivity: Tensor, pruned: Callable[[Tensor, float], Tensor]
) -> list[float]:
    """What a layer's zeros do to the model's output, at each of DENSITIES: half of the sum of sensitivity x error.

    Args:
        weight: (out, columns).
        second_moment: of the input columns, (columns, columns).
        sensitivity: Fisher information of each output, (out,), as `output_sensitivities` finds it.
        pruned: (rows of the weight, share kept) -> the same rows as pruning leaves them.
    """
    rows = torch.linspace(0, len(weight) - 1, min(_ROWS, len(weight))).round().long()
    some, weights = weight[rows].double(), sensitivity[rows].double() * len(weight) / len(rows)
    losses = []
    for density in DENSITIES:
        change = pruned(some, density).double() - some
        losses.append(0.5 * float((((change @ second_moment) * change).sum(1) * weights).sum().clamp_min(0)))
    return losses


def solve(
    scores: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    keep: float,
    errors: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> dict[str, float]:
    """The shares whose predicted losses have the least sum, with `keep` of all weights left.

    Layers without a curve keep `keep`. What the steps of DENSITIES leave of the budget is shared out in proportion.

    Args:
        scores: unused; allocations take the same arguments.
        weights: of each layer.
        keep: share of all weights that stays.
        errors: of layers that could be measured, a loss for each of DENSITIES.
    """
    names = [name for name in weights if name in errors]
    counts = {name: weights[name].numel() for name in names}
    budget = keep * sum(counts.values())
    costs = [[density * counts[name] for density in DENSITIES] for name in names]
    picks = allocate_rounded(costs, [list(errors[name]) for name in names], budget, _BINS)
    if picks is None:  # less than the smallest density everywhere
        return dict.fromkeys(weights, keep)
    chosen = {name: DENSITIES[pick] for name, pick in zip(names, picks, strict=True)}
    return dict.fromkeys(weights, keep) | _scaled(chosen, counts, budget)


def _scaled(chosen: Mapping[str, float], counts: Mapping[str, int], budget: float) -> dict[str, float]:
    """Shares raised by one factor, none above 1, until they take the budget."""
    low, high = 1.0, 1 / min(chosen.values(), default=1.0)
    for _ in range(60):
        factor = (low + high) / 2
        taken = sum(min(1.0, share * factor) * counts[name] for name, share in chosen.items())
        low, high = (factor, high) if taken <= budget else (low, factor)
    return {name: min(1.0, share * low) for name, share in chosen.items()}
