"""How many weights of each layer stay: one function an allocation, (weights' scores, share kept) -> share kept a
layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def uniform(scores: Mapping[str, Tensor], weights: Mapping[str, Tensor], keep: float) -> dict[str, float]:
    """Every layer keeps the same share."""
    return dict.fromkeys(scores, keep)


def everything(scores: Mapping[str, Tensor], weights: Mapping[str, Tensor], keep: float) -> dict[str, float]:
    """Scores of all layers compete."""
    return _by_threshold(scores, keep)


def lamp(scores: Mapping[str, Tensor], weights: Mapping[str, Tensor], keep: float) -> dict[str, float]:
    """Layer-adaptive magnitudes of all layers compete.

    Source: Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, eq. 4.
    """
    return _by_threshold({name: lamp_scores(weight) for name, weight in weights.items()}, keep)


def lamp_scores(weight: Tensor) -> Tensor:
    """w^2 over the sum of the squares that are not smaller; same shape as the weight."""
    squares = weight.detach().double().square().flatten()
    order = squares.argsort(descending=True)
    scores = torch.empty_like(squares)
    scores[order] = squares[order] / squares[order].cumsum(0).clamp_min(1e-30)
    return scores.view(weight.shape)


def erk(scores: Mapping[str, Tensor], weights: Mapping[str, Tensor], keep: float) -> dict[str, float]:
    """Erdos-Renyi-Kernel: density proportional to the sum of a weight's dimensions over their product.

    Source: Evci et al., "Rigging the Lottery", ICML 2020, section 3; layers that would exceed density 1 stay dense.
    """
    raw = {name: sum(weight.shape) / weight.numel() for name, weight in weights.items()}
    dense: set[str] = set()
    while True:
        budget = keep * sum(w.numel() for w in weights.values()) - sum(weights[n].numel() for n in dense)
        total = sum(raw[n] * weights[n].numel() for n in weights if n not in dense)
        scale = budget / total if total else 0.0
        over = [n for n in weights if n not in dense and raw[n] * scale > 1]
        if not over:
            return {n: 1.0 if n in dense else max(raw[n] * scale, 0.0) for n in weights}
        dense.update(over)


def _by_threshold(scores: Mapping[str, Tensor], keep: float) -> dict[str, float]:
    flat = torch.cat([s.flatten().double() for s in scores.values()])
    count = max(1, round(keep * len(flat)))
    threshold = flat.kthvalue(len(flat) - count + 1).values
    return {name: float((s >= threshold).double().mean()) for name, s in scores.items()}
