"""Losses on logits: Hinton's softened targets, their decoupled form, relations between predictions, token-level KL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError
from ...data.augmentation.transforms import MixedTargets
from .term import DistillationBatch, Loss, Setup, Term

_IGNORED = -100  # cross_entropy's own mark of positions that do not count


def kd(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Kullback-Leibler divergence of softened predictions from the teacher's, times the squared temperature.

    Args:
        student: logits, (batch, ..., classes).
        teacher: logits of the same shape.
        temperature: divides both.
    Returns:
        a scalar, the mean over all positions.
    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    return forward_kl(student, teacher, temperature=temperature) * temperature**2


def dkd(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 2.0,
) -> Tensor:
    """Hinton's divergence taken apart: target against the rest, and the rest among itself, weighted on their own.

    Args:
        student: logits, (batch, classes).
        teacher: logits of the same shape.
        targets: classes, (batch,).
        temperature: divides both.
        alpha: weight of target class against all others.
        beta: weight of the distribution over the others.
    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022.
    """
    student, teacher = student.float() / temperature, teacher.float() / temperature
    hit = F.one_hot(targets, student.shape[-1]).bool()
    # logarithms of (target, all others), from log-sum-exp: no probability underflows
    binary = [
        torch.stack([logits[hit], logits.masked_fill(hit, -torch.inf).logsumexp(1)], 1).log_softmax(1)
        for logits in (student, teacher)
    ]
    others = [logits[~hit].reshape(len(logits), -1).log_softmax(1) for logits in (student, teacher)]
    target_part = F.kl_div(binary[0], binary[1], reduction="batchmean", log_target=True)
    other_part = F.kl_div(others[0], others[1], reduction="batchmean", log_target=True)
    return (alpha * target_part + beta * other_part) * temperature**2


def dist(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """One minus the correlation of predictions, over classes within an example and over examples within a class.

    Args:
        student: logits, (batch, classes).
        teacher: logits of the same shape.
        temperature: divides both.
        beta: weight of the correlation over classes.
        gamma: weight of the correlation over the batch.
    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022.
    """
    student, teacher = ((logits.float().flatten(0, -2) / temperature).softmax(1) for logits in (student, teacher))
    inter = 1 - _correlation(student, teacher).mean()
    intra = 1 - _correlation(student.T, teacher.T).mean()
    return (beta * inter + gamma * intra) * temperature**2


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of matching rows; (rows, columns) twice -> (rows,)."""
    return F.cosine_similarity(first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True), dim=1)


def forward_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, counted: Tensor | None = None) -> Tensor:
    """KL(teacher || student), the mean over positions: the student covers all that the teacher finds likely.

    Args:
        student: logits, (batch, ..., classes).
        teacher: logits of the same shape.
        temperature: divides both.
        counted: which positions count, (batch, ...); all where None.
    """
    student, teacher = (_log_probabilities(logits, temperature) for logits in (student, teacher))
    return _mean_divergence(teacher, student, counted)


def reverse_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, counted: Tensor | None = None) -> Tensor:
    """KL(student || teacher), the mean over positions: the student avoids what the teacher finds unlikely.

    Arguments as of `forward_kl`.
    Source: Gu et al., "MiniLLM", ICLR 2024.
    """
    student, teacher = (_log_probabilities(logits, temperature) for logits in (student, teacher))
    return _mean_divergence(student, teacher, counted)


def jensen_shannon(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, beta: float = 0.5, counted: Tensor | None = None
) -> Tensor:
    """beta KL(teacher || m) + (1 - beta) KL(student || m) with m = beta teacher + (1 - beta) student.

    Arguments as of `forward_kl`; beta lies strictly between 0 and 1.
    Source: Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024.
    """
    if not 0 < beta < 1:
        raise InputError(
            f"loss_arg js.beta must lie between 0 and 1, got {beta:g}; use forward_kl or reverse_kl at the ends"
        )
    student, teacher = (_log_probabilities(logits, temperature) for logits in (student, teacher))
    logs = torch.tensor([beta, 1 - beta], device=student.device).log()
    mixture = torch.logaddexp(teacher + logs[0], student + logs[1])
    return beta * _mean_divergence(teacher, mixture, counted) + (1 - beta) * _mean_divergence(student, mixture, counted)


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / temperature).log_softmax(-1)


def _mean_divergence(of: Tensor, against: Tensor, counted: Tensor | None) -> Tensor:
    """KL(of || against) of log-probabilities, the mean over counted positions."""
    divergence = (of.exp() * (of - against)).sum(-1)
    if counted is None:
        return divergence.mean()
    return (divergence * counted).sum() / counted.sum().clamp(min=1)


def hard_targets(targets: Any, loss: str) -> Tensor:
    """Class targets, (batch,).

    Raises:
        InputError: where targets are blended, missing or numbers.
    """
    if isinstance(targets, MixedTargets):
        raise InputError(f"loss {loss} needs one class an example; leave mixup and cutmix out")
    if targets is None or targets.is_floating_point():
        raise InputError(f"loss {loss} needs classes as targets, and this data has none")
    return targets


def counted_positions(targets: Any, logits: Tensor) -> Tensor | None:
    """Positions whose target is not marked as ignored, where targets name positions; otherwise None."""
    if isinstance(targets, Tensor) and targets.shape == logits.shape[:-1] and not targets.is_floating_point():
        return targets != _IGNORED
    return None


def ramp(progress: float, share: float) -> float:
    """Rises from 0 to 1 over the first share of the training."""
    return 1.0 if share <= 0 else min(progress / share, 1.0)


def _make_kd(setup: Setup) -> Term:
    return Term(lambda signals: kd(signals.student, signals.teacher, temperature=setup.temperature))


def _make_dkd(setup: Setup) -> Term:
    arguments = dict(setup.arguments)
    warmup = arguments.pop("warmup")

    def compute(signals: DistillationBatch) -> Tensor:
        targets = hard_targets(signals.targets, "dkd")
        loss = dkd(signals.student, signals.teacher, targets, temperature=setup.temperature, **arguments)
        return ramp(signals.progress, warmup) * loss

    return Term(compute)


def _make_dist(setup: Setup) -> Term:
    return Term(lambda signals: dist(signals.student, signals.teacher, **setup.arguments))


def _make_token_loss(function: Any) -> Any:
    def make(setup: Setup) -> Term:
        return Term(
            lambda signals: function(
                signals.student,
                signals.teacher,
                counted=counted_positions(signals.targets, signals.student),
                **setup.arguments,
            )
        )

    return make


KD = Loss(_make_kd, weight=0.9, task_weight=0.1)
# beta as released for CIFAR ResNets such as 56 to 20; teachers much wider than the student take 4 to 8 there. The
# warm-up takes 20 of the paper's 240 epochs, and the same share of any other training.
DKD = Loss(_make_dkd, needs=("labels",), arguments={"alpha": 1.0, "beta": 2.0, "warmup": 20 / 240})
DIST = Loss(_make_dist, arguments={"temperature": 1.0, "beta": 1.0, "gamma": 1.0})
FORWARD_KL = Loss(_make_token_loss(forward_kl), arguments={"temperature": 1.0})
REVERSE_KL = Loss(_make_token_loss(reverse_kl), arguments={"temperature": 1.0})
JENSEN_SHANNON = Loss(_make_token_loss(jensen_shannon), arguments={"temperature": 1.0, "beta": 0.5})
