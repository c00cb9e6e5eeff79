"""Losses for models that give no class logits: their outputs as they are, or the features of all stages and heads."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .shapes import as_map, pooled_alike, seeded
from .term import DistillationBatch, Loss, Setup, Term, total


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of two features by the teacher's squares, so that every stage counts alike.

    Args:
        student: (batch, channels, height, width).
        teacher: the same shape.
    """
    return (student - teacher).square().mean() / teacher.square().mean().clamp(min=1e-12)


def _make_outputs(setup: Setup) -> Term:
    return Term(lambda signals: F.mse_loss(signals.student.float(), signals.teacher.float()))


def _make_features(setup: Setup) -> Term:
    adapters: list[nn.Module] = []
    for number, pair in enumerate(setup.signals.features):
        mine, theirs = pooled_alike(*pair)
        adapters.append(seeded(setup.seed + number, partial(_adapter, mine, theirs)))

    def compute(signals: DistillationBatch) -> Tensor:
        errors = []
        for adapter, pair in zip(adapters, signals.features, strict=True):
            mine, theirs = pooled_alike(*pair)
            errors.append(relative_error(as_map(adapter(mine)), theirs))
        return total(errors) / max(len(errors), 1)

    return Term(compute, [adapter for adapter in adapters if not isinstance(adapter, nn.Identity)])


def _adapter(student: Tensor, teacher: Tensor) -> nn.Module:
    """Nothing where the channels are as many, else the 1 x 1 convolution that fits the example features best."""
    if student.shape[1] == teacher.shape[1]:
        return nn.Identity()
    adapter = nn.Conv2d(student.shape[1], teacher.shape[1], 1)
    rows, wanted = (part.detach().movedim(1, -1).flatten(0, -2).double().cpu() for part in (student, teacher))
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
    gram = rows.T @ rows + 1e-3 * len(rows) * torch.eye(rows.shape[1], dtype=rows.dtype)
    found = torch.linalg.solve(gram, rows.T @ wanted).T.to(adapter.weight.dtype)
    with torch.no_grad():
        adapter.weight.copy_(found[:, :-1, None, None])
        adapter.bias.copy_(found[:, -1])  # type: ignore[union-attr]
    return adapter


OUTPUTS = Loss(_make_outputs, weight=0.9, task_weight=0.1)
FEATURES = Loss(_make_features, needs=("features", "heads"), compares_outputs=False)
