"""Losses for transformers: hidden states, attention maps, relations within self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import ShapeError
from .shapes import seeded
from .term import DistillationBatch, Loss, Setup, Term, total


def hidden_states(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of hidden states, the student's already projected to the teacher's width.

    Args:
        student: (batch, tokens, channels).
        teacher: the same shape.
    Source: Jiao et al., "TinyBERT", Findings of EMNLP 2020.
    """
    if student.shape != teacher.shape:
        raise ShapeError(f"hidden states differ in shape: {list(student.shape)} and {list(teacher.shape)}")
    return F.mse_loss(student.float(), teacher.float())


def attention_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Attention before the softmax; (batch, heads, tokens, channels) twice -> (batch, heads, tokens, tokens)."""
    return queries.float() @ keys.float().transpose(-1, -2) / queries.shape[-1] ** 0.5


def attention_maps(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of the scores of all heads; heads are averaged where their numbers differ.

    Args:
        student: queries, keys (and values), each (batch, heads, tokens, channels).
        teacher: the same of the teacher.
    Source: Jiao et al., 2020 (scores before the softmax).
    """
    mine, theirs = attention_scores(*student[:2]), attention_scores(*teacher[:2])
    if mine.shape[1] != theirs.shape[1]:
        mine, theirs = mine.mean(1), theirs.mean(1)
    return F.mse_loss(mine, theirs)


def self_relation(vectors: Tensor, *, heads: int) -> Tensor:
    """How much every token relates to every other, as log-probabilities, in relation heads of equal number.

    Args:
        vectors: queries, keys or values, (batch, attention heads, tokens, channels).
        heads: number of relation heads that the joined channels are split into.
    Returns:
        (batch, heads, tokens, tokens).
    Source: Wang et al., "MiniLMv2", Findings of ACL 2021.
    """
    joined = vectors.float().transpose(1, 2).flatten(2)
    if joined.shape[-1] % heads:
        raise ShapeError(
            f"{joined.shape[-1]} channels do not split into {heads} relation heads; set loss_arg minilm.heads"
        )
    split = joined.unflatten(-1, (heads, -1)).transpose(1, 2)
    return attention_scores(split, split).log_softmax(-1)


def self_attention_relation(student: Sequence[Tensor], teacher: Sequence[Tensor], *, heads: int) -> Tensor:
    """KL from the teacher's to the student's relations of queries, keys and values, summed over the three.

    Args:
        student: queries, keys, values, each (batch, heads, tokens, channels); widths may differ from the teacher's.
        teacher: the same of the teacher.
        heads: number of relation heads.
    Returns:
        a scalar, the mean over batch, heads and tokens.
    Source: Wang et al., "MiniLMv2", 2021.
    """
    loss = torch.zeros((), device=student[0].device)
    for mine, theirs in zip(student, teacher, strict=True):
        mine, theirs = self_relation(mine, heads=heads), self_relation(theirs, heads=heads)
        loss = loss + (theirs.exp() * (theirs - mine)).sum(-1).mean()
    return loss


def _make_hidden(setup: Setup) -> Term:
    widths = [(student.shape[-1], teacher.shape[-1]) for student, teacher in setup.signals.features]
    projections = nn.ModuleList(
        nn.Identity() if mine == theirs else seeded(setup.seed + n, partial(nn.Linear, mine, theirs))
        for n, (mine, theirs) in enumerate(widths)
    )
    return Term(
        lambda signals: total(
            hidden_states(project(student), teacher)
            for project, (student, teacher) in zip(projections, signals.features, strict=True)
        ),
        [projections],
    )


def _make_attention(setup: Setup) -> Term:
    return Term(lambda signals: total(attention_maps(*pair) for pair in signals.attention))


def _make_relation(setup: Setup) -> Term:
    # by default as many relation heads as the student has attention heads
    heads = int(setup.arguments["heads"]) or setup.signals.attention[-1][0][0].shape[1]

    def compute(signals: DistillationBatch) -> Tensor:
        return self_attention_relation(*signals.attention[-1], heads=heads)

    return Term(compute)


HIDDEN = Loss(_make_hidden, needs=("features",))
ATTENTION = Loss(_make_attention, needs=("attention",))
MINILM = Loss(_make_relation, needs=("attention",), arguments={"heads": 0.0})
