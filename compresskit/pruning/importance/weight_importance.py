"""Scores of single weights, and the masks and updates that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...analysis.calibration.moments import MomentSums


@dataclass
class WeightEvidence:
    """What a saliency may look at for one layer's weight, (out, columns) once flattened.

    Attributes:
        moments: of the layer's inputs; None where they were not or cannot be measured.
        gradient: mean gradient of the weight; None where not asked for.
        generator: for random scores.
    """

    moments: MomentSums | None = None
    gradient: Tensor | None = None
    generator: torch.Generator | None = None


def magnitude(weight: Tensor, evidence: WeightEvidence) -> Tensor:
    """|w|."""
    return weight.detach().abs()


def random(weight: Tensor, evidence: WeightEvidence) -> Tensor:
    """Uniform in [0, 1)."""
    return torch.rand(weight.shape, generator=evidence.generator).to(weight.device)


def gradient(weight: Tensor, evidence: WeightEvidence) -> Tensor:
    """|w dL/dw|. Source: Molchanov et al., CVPR 2019, eq. 8, for single weights."""
    if evidence.gradient is None:
        raise TypeError("gradients of the weights were not measured")
    return (weight.detach() * evidence.gradient).abs()


def wanda(weight: Tensor, evidence: WeightEvidence) -> Tensor:
    """|w| ||x||, with the norm of the input that the weight multiplies; |w| alone where inputs cannot be measured.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, eq. 1.
    """
    if evidence.moments is None:
        return magnitude(weight, evidence)
    norm = (evidence.moments.second[0].diagonal() / evidence.moments.count).sqrt()
    return (weight.detach().flatten(1).abs() * norm.to(weight.dtype)).view(weight.shape)


def sparsegpt(weight: Tensor, evidence: WeightEvidence) -> Tensor:
    """w^2 / [H^-1]_jj^2 with H from the Cholesky factor: what removal costs once later columns make up for it.

    Source: Frantar & Alistarh, "SparseGPT", ICML 2023, section 3.3.
    """
    if evidence.moments is None:
        return magnitude(weight, evidence)
    diagonal = inverse_factor(evidence.moments).diagonal()
    return (weight.detach().flatten(1).double() / diagonal).square().view(weight.shape)


def inverse_factor(moments: MomentSums, damping: float = 0.01) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped second moments, (columns, columns) float64."""
    hessian = moments.second[0].double() / moments.count
    scale = hessian.diagonal().mean().clamp_min(1e-12)
    hessian = hessian + damping * scale * torch.eye(len(hessian), dtype=torch.float64, device=hessian.device)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)


def top_mask(scores: Tensor, keep: float) -> Tensor:
    """The highest share of scores, as a bool mask of their shape; ties go to the earlier element."""
    count = round(keep * scores.numel())
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().argsort(descending=True, stable=True)[:count]] = True
    return mask.view(scores.shape)


def row_mask(scores: Tensor, density: float) -> Tensor:
    """The highest share of each row of (out, columns), so that every output keeps as many inputs.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024, section 3.
    """
    count = round(density * scores.shape[1])
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter_(1, scores.topk(count, dim=1).indices, True)


def n_of_m_mask(scores: Tensor, n: int, m: int) -> Tensor:
    """The n highest of every m consecutive scores along the last dimension of (out, columns); a remainder keeps n too.

    [5, 1, 4, 2] with 2:4 -> [True, False, True, False].
    """
    columns = scores.shape[1]
    padded = torch.nn.functional.pad(scores.double(), (0, -columns % m), value=-1.0)
    groups = padded.view(len(scores), -1, m)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, groups.topk(n, dim=2).indices, True)
    return mask.view(len(scores), -1)[:, :columns]


def prune_with_update(
    weight: Tensor, moments: MomentSums, mask_of: Any, block: int = 128, chosen_at_once: int | None = None
) -> Tensor:
    """Prune columns from left to right; what each loses is made up for by the columns to its right.

    Args:
        weight: (out, columns).
        moments: of the input columns.
        mask_of: (scores (out, k), first column) -> bool mask of what stays.
        block: columns whose updates reach the columns behind them together.
        chosen_at_once: columns whose mask is chosen together, a divisor of block; None takes a block.
    Returns:
        the pruned, updated weight, float64.
    Source: Frantar & Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023,
    alg. 1.
    """
    return prune_with_factor(weight, inverse_factor(moments), mask_of, block, chosen_at_once)


def prune_with_factor(
    weight: Tensor, factor: Tensor, mask_of: Any, block: int = 128, chosen_at_once: int | None = None
) -> Tensor:
    """The same, for callers that prune one layer several times: `factor` is `inverse_factor` of its moments."""
    weight = weight.detach().double().clone()
    for start in range(0, weight.shape[1], block):
        end = min(start + block, weight.shape[1])
        errors = torch.zeros_like(weight[:, start:end])
        for first in range(start, end, chosen_at_once or block):
            last = min(first + (chosen_at_once or block), end)
            mask = mask_of((weight[:, first:last] / factor.diagonal()[first:last]).square(), first)
            for j in range(first, last):
                kept = torch.where(mask[:, j - first], weight[:, j], 0.0)
                errors[:, j - start] = (weight[:, j] - kept) / factor[j, j]
                weight[:, j] = kept
                weight[:, j + 1 : end] -= torch.outer(errors[:, j - start], factor[j, j + 1 : end])
        weight[:, end:] -= errors @ factor[start:end, end:]
    return weight
