"""Losses on logits against their equations written out, and against torchdistill where it is installed."""

from __future__ import annotations

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compresskit.core.errors import InputError
from compresskit.data.augmentation.transforms import MixedTargets
from compresskit.distillation.losses import logits as losses
from compresskit.distillation.losses.term import DistillationBatch, Setup


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def test_kd_of_two_classes_by_hand():
    # softened by 2: the teacher gives (3/4, 1/4), the student (1/2, 1/2)
    teacher = torch.tensor([[2 * math.log(3), 0.0]])
    student = torch.zeros(1, 2)
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert losses.kd(student, teacher, temperature=2.0).item() == pytest.approx(expected, rel=1e-6)


def test_kd_of_equal_logits_is_zero_and_its_slope_nears_that_of_a_squared_difference():
    logits = random_logits(4, 10).requires_grad_()
    assert losses.kd(logits, logits.detach()).item() == pytest.approx(0, abs=1e-6)
    # Hinton et al., section 2.1: for high temperatures the gradient is (z - v) / classes, once T^2 is put back
    teacher = random_logits(4, 10, seed=1)
    teacher = teacher - teacher.mean(1, keepdim=True)
    student = (random_logits(4, 10) - random_logits(4, 10).mean(1, keepdim=True)).requires_grad_()
    (slope,) = torch.autograd.grad(losses.kd(student, teacher, temperature=1000.0), student)
    assert torch.allclose(slope, (student - teacher) / 10 / 4, atol=2e-3)


def test_kd_is_torchdistills():
    pytest.importorskip("torchdistill")
    peer = import_module("torchdistill.losses.mid_level").KDLoss(
        "s", "output", "t", "output", temperature=4.0, alpha=0.0, reduction="batchmean"
    )
    student, teacher = random_logits(5, 10), random_logits(5, 10, seed=1)
    theirs = peer({"s": {"output": student}}, {"t": {"output": teacher}}, torch.zeros(5, dtype=torch.int64))
    # without a task part the peer leaves the squared temperature out
    assert losses.kd(student, teacher, temperature=4.0).item() == pytest.approx(16 * theirs.item(), rel=1e-5)


def test_dkd_by_its_equation():
    student, teacher = random_logits(3, 5), random_logits(3, 5, seed=1)
    targets = torch.tensor([0, 4, 2])
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    expected = 0.0
    for row, target in enumerate(targets.tolist()):
        pt, qt = p[row, target], q[row, target]
        expected += pt * (pt / qt).log() + (1 - pt) * ((1 - pt) / (1 - qt)).log()
        others = [c for c in range(5) if c != target]
        ph, qh = p[row, others] / (1 - pt), q[row, others] / (1 - qt)
        expected += 8 * (ph * (ph / qh).log()).sum()
    found = losses.dkd(student, teacher, targets, temperature=4.0, alpha=1.0, beta=8.0)
    assert found.item() == pytest.approx(16 * expected.item() / 3, rel=1e-5)


def test_dkd_with_the_teachers_own_weight_is_kd():
    # Zhao et al.: KD is the target part plus (1 - p_target) times the other part
    student, teacher = random_logits(1, 6), random_logits(1, 6, seed=1)
    target = torch.tensor([3])
    other_share = 1 - (teacher / 4).softmax(1)[0, 3].item()
    found = losses.dkd(student, teacher, target, temperature=4.0, alpha=1.0, beta=other_share)
    assert found.item() == pytest.approx(losses.kd(student, teacher, temperature=4.0).item(), rel=1e-5)


def test_dkd_stays_finite_where_probabilities_underflow():
    student = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    loss = losses.dkd(student, torch.tensor([[-500.0, 500.0, 0.0]]), torch.tensor([0]), temperature=1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(("done", "factor"), [(0.0, 0.0), (1 / 24, 0.5), (1 / 12, 1.0), (0.7, 1.0)])
def test_dkd_warms_up_over_a_twelfth_of_any_training(done, factor):
    # Zhao et al.: 20 of 240 epochs, linearly; a run of two epochs warms up over the same share of its steps
    student, teacher, targets = random_logits(3, 5), random_logits(3, 5, seed=1), torch.tensor([0, 4, 2])
    term = losses.DKD.make(Setup(DistillationBatch(student, teacher), 4.0, losses.DKD.arguments))
    found = term.compute(DistillationBatch(student, teacher, targets, progress=done))
    whole = losses.dkd(student, teacher, targets, temperature=4.0, alpha=1.0, beta=2.0)
    assert found.item() == pytest.approx(factor * whole.item(), rel=1e-5)


def test_dist_ignores_shift_and_scale_of_probabilities():
    student, teacher = random_logits(6, 5), random_logits(6, 5, seed=1)
    found = losses.dist(student, teacher, beta=1.0, gamma=2.0)
    s, t = student.softmax(1).numpy(), teacher.softmax(1).numpy()
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    assert found.item() == pytest.approx(rows + 2 * columns, rel=1e-4)
    assert losses.dist(student, student).item() == pytest.approx(0, abs=1e-6)


def test_dist_is_torchdistills():
    pytest.importorskip("torchdistill")
    peer = import_module("torchdistill.losses.mid_level").DISTLoss(
        "m", "output", "m", "output", beta=2.0, gamma=0.5, tau=4.0
    )
    student, teacher = random_logits(5, 10), random_logits(5, 10, seed=1)
    theirs = peer({"m": {"output": student}}, {"m": {"output": teacher}})
    mine = losses.dist(student, teacher, temperature=4.0, beta=2.0, gamma=0.5)
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_forward_and_reverse_divergence_are_each_others_mirror():
    student, teacher = random_logits(2, 3, 7), random_logits(2, 3, 7, seed=1)
    assert losses.forward_kl(student, teacher).item() == pytest.approx(losses.reverse_kl(teacher, student).item())
    expected = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="sum") / 6
    assert losses.forward_kl(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


def test_jensen_shannon_is_symmetric_and_at_most_log_two():
    student, teacher = random_logits(2, 3, 7) * 20, random_logits(2, 3, 7, seed=1) * 20
    there, back = losses.jensen_shannon(student, teacher), losses.jensen_shannon(teacher, student)
    assert there.item() == pytest.approx(back.item(), rel=1e-5)
    assert 0 < there.item() <= math.log(2) + 1e-6
    student, teacher = student / 20, teacher / 20
    s, t = student.softmax(-1), teacher.softmax(-1)
    m = 0.3 * t + 0.7 * s
    expected = (0.3 * torch.special.xlogy(t, t / m) + 0.7 * torch.special.xlogy(s, s / m)).sum(-1).mean()
    assert losses.jensen_shannon(student, teacher, beta=0.3).item() == pytest.approx(expected.item(), rel=1e-4)


def test_jensen_shannon_refuses_its_ends():
    with pytest.raises(InputError, match="js.beta must lie between 0 and 1, got 1"):
        losses.jensen_shannon(torch.zeros(1, 2), torch.zeros(1, 2), beta=1.0)


@pytest.mark.parametrize("function", [losses.forward_kl, losses.reverse_kl, losses.jensen_shannon])
def test_positions_that_do_not_count_change_nothing(function):
    student, teacher = random_logits(2, 3, 7), random_logits(2, 3, 7, seed=1)
    counted = losses.counted_positions(torch.tensor([[1, 2, -100], [3, -100, -100]]), student)
    kept = function(student[counted].unsqueeze(0), teacher[counted].unsqueeze(0))
    assert function(student, teacher, counted=counted).item() == pytest.approx(kept.item(), rel=1e-5)


@pytest.mark.parametrize("targets", [None, torch.zeros(2, 3), MixedTargets(torch.zeros(2), torch.zeros(2), 0.5)])
def test_losses_with_classes_refuse_other_targets(targets):
    with pytest.raises(InputError, match="loss dkd needs"):
        losses.hard_targets(targets, "dkd")


def test_ramp():
    assert [losses.ramp(p, 0.2) for p in (0.0, 0.1, 0.2, 0.9)] == [0.0, 0.5, 1.0, 1.0]
    assert losses.ramp(0.0, 0.0) == 1.0
