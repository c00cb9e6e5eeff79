"""Losses on logits: Hinton's softened targets, their decoupled form, and relations between predictions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .term import Loss, Setup, Term


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
    student, teacher = (logits.float().flatten(0, -2) / temperature for logits in (student, teacher))
    divergence = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)
    return divergence * temperature**2


def _make_kd(setup: Setup) -> Term:
    return Term(lambda signals: kd(signals.student, signals.teacher, temperature=setup.temperature))


KD = Loss(_make_kd, weight=0.9, task_weight=0.1)
