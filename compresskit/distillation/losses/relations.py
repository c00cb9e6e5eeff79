"""Losses between relations: how the examples of a batch lie to each other in the two models."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shapes import seeded, vectors
from .term import DistillationBatch, Loss, Setup, Term, needed, on_embeddings

_TINY = 1e-7


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of row-normalized Gram matrices of the batch.

    Args:
        student: (batch, ...).
        teacher: (batch, ...).
    Source: Tung & Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019.
    """
    student, teacher = (F.normalize(flat @ flat.T) for flat in (vectors(student), vectors(teacher)))
    return (student - teacher).square().mean()


def correlation(embeddings: Tensor, *, gamma: float, order: int) -> Tensor:
    """Gaussian kernel matrix of unit vectors, by its Taylor series.

    Args:
        embeddings: unit vectors, (batch, features).
        gamma: of the kernel exp(-gamma |x - y|^2).
        order: the highest power that is kept.
    Returns:
        (batch, batch).
    Source: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019.
    """
    products = embeddings @ embeddings.T
    series = torch.zeros_like(products)
    for power in range(order + 1):
        series = series + (2 * gamma) ** power / math.factorial(power) * products**power
    return math.exp(-2 * gamma) * series


def correlation_congruence(student: Tensor, teacher: Tensor, *, gamma: float = 0.4, order: int = 2) -> Tensor:
    """Squared distance of the two kernel matrices, over the squared batch size.

    Args:
        student: (batch, features), any length.
        teacher: (batch, features').
    Source: Peng et al., ICCV 2019.
    """
    student, teacher = (
        correlation(F.normalize(vectors(side)), gamma=gamma, order=int(order)) for side in (student, teacher)
    )
    return (student - teacher).square().mean()


def distances(embeddings: Tensor) -> Tensor:
    """Euclidean distances of all pairs over their mean; (batch, features) -> (batch, batch).

    Source: Park et al., "Relational Knowledge Distillation", CVPR 2019.
    """
    flat = vectors(embeddings)
    squares = flat.square().sum(1)
    apart = ~torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    # the root has no finite slope at 0, so equal examples are lifted by a hair
    found = (squares[:, None] + squares[None] - 2 * flat @ flat.T).clamp(min=1e-12).sqrt() * apart
    return found / found[apart].mean().clamp(min=1e-6)


def angles(embeddings: Tensor) -> Tensor:
    """Cosines of the angle at j of all triples (i, j, k); (batch, features) -> (batch, batch, batch).

    Source: Park et al., CVPR 2019.
    """
    flat = vectors(embeddings)
    directions = F.normalize(flat[None] - flat[:, None], dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def relational(student: Tensor, teacher: Tensor, *, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Huber loss of pairwise distances and of angles.

    Args:
        student: (batch, features).
        teacher: (batch, features').
        distance: weight of the distances.
        angle: weight of the angles; 0 leaves the cubic cost out.
    Source: Park et al., CVPR 2019.
    """
    loss = student.new_zeros((), dtype=torch.float32)
    if distance:
        loss = loss + distance * F.smooth_l1_loss(distances(student), distances(teacher))
    if angle:
        loss = loss + angle * F.smooth_l1_loss(angles(student), angles(teacher))
    return loss


def probabilistic(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the probabilities that cosine similarity gives to pairs of the batch, the mean over pairs.

    Args:
        student: (batch, features).
        teacher: (batch, features').
    Source: Passalis & Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018.
    """
    student, teacher = (_pair_probabilities(vectors(side)) for side in (student, teacher))
    return (teacher * ((teacher + _TINY) / (student + _TINY)).log()).mean()


def _pair_probabilities(flat: Tensor) -> Tensor:
    unit = flat / (flat.norm(dim=1, keepdim=True) + _TINY)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


def _make_similarity(setup: Setup) -> Term:
    return Term(lambda signals: similarity_preserving(*signals.features[-1]))


def _make_correlation(setup: Setup) -> Term:
    arguments: dict[str, Any] = dict(setup.arguments)
    width = int(arguments.pop("width"))
    embeds = nn.ModuleList(
        seeded(setup.seed + number, partial(nn.Linear, side.shape[1], width))
        for number, side in enumerate(needed(setup.signals.embeddings))
    )

    def compute(signals: DistillationBatch) -> Tensor:
        sides = needed(signals.embeddings)
        student, teacher = (embed(vectors(side)) for embed, side in zip(embeds, sides, strict=True))
        return correlation_congruence(student, teacher, **arguments)

    return Term(compute, [embeds])


SP = Loss(_make_similarity, weight=3000.0, needs=("features",))
CC = Loss(_make_correlation, weight=0.02, needs=("embeddings",), arguments={"gamma": 0.4, "order": 2.0, "width": 128.0})
RKD = Loss(on_embeddings(relational), needs=("embeddings",), arguments={"distance": 25.0, "angle": 50.0})
PKT = Loss(on_embeddings(probabilistic), weight=30000.0, needs=("embeddings",))
