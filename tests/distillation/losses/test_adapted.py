"""Losses with something to learn along: each equation on a small case."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.distillation.losses import adapted
from compresskit.distillation.losses.term import DistillationBatch, Setup


def feature(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def signals_of(*pairs, **rest) -> DistillationBatch:
    return DistillationBatch(torch.zeros(1), torch.zeros(1), features=pairs, before_relu=pairs, **rest)


def test_gaussian_likelihood_by_hand():
    mean, teacher = torch.tensor([[[[1.0]], [[2.0]]]]), torch.tensor([[[[3.0]], [[2.0]]]])
    variance = torch.tensor([4.0, 1.0])
    expected = ((2.0**2 / 4 + math.log(4)) / 2 + 0.0) / 2
    assert adapted.gaussian_likelihood(mean, variance, teacher).item() == pytest.approx(expected)


def test_the_likelihood_is_torchs_gaussian_loss():
    mean, teacher = feature(2, 3, 4, 4), feature(2, 3, 4, 4, seed=1)
    variance = torch.tensor([0.5, 1.0, 2.0])
    theirs = nn.GaussianNLLLoss()(mean, teacher, variance.reshape(1, 3, 1, 1).expand_as(mean))
    assert adapted.gaussian_likelihood(mean, variance, teacher).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_a_gaussian_head_starts_at_variance_five():
    head = adapted.GaussianHead(3, 4)
    assert torch.allclose(F.softplus(head.raw_variance), torch.full((4,), 5.0))


def test_factor_transfer_by_hand():
    student, teacher = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    assert adapted.factor_transfer(student, teacher).item() == pytest.approx((0.4 + 0.8) / 2)


def test_the_students_factor_loss_does_not_move_the_paraphraser():
    factors = adapted.Factors(3, 4, 0.5)
    transfer, _ = factors(feature(2, 3, 4, 4), feature(2, 4, 4, 4, seed=1))
    transfer.backward()
    assert all(parameter.grad is None for parameter in [*factors.encode.parameters(), *factors.decode.parameters()])
    assert all(parameter.grad is not None for parameter in factors.translate.parameters())


def test_partial_distance_by_hand():
    teacher = torch.tensor([2.0, -3.0, -3.0, -0.5]).reshape(1, 1, 1, 4)
    student = torch.tensor([1.0, -2.0, 0.5, -1.0]).reshape(1, 1, 1, 4)
    # margin -1: targets 2, -1, -1, -0.5; free where the student is not above a target that is not positive
    expected = (1 - 2) ** 2 + 0 + (0.5 + 1) ** 2 + 0
    assert adapted.partial_distance(student, teacher, torch.tensor([-1.0])).item() == pytest.approx(expected)


def test_the_inactive_margin_is_the_mean_of_negative_draws():
    draws = torch.randn(400_000, generator=torch.Generator().manual_seed(0)) * 2 + 0.5
    expected = draws[draws < 0].mean()
    found = adapted.inactive_margin(torch.tensor([0.5]), torch.tensor([2.0]))
    assert found.item() == pytest.approx(expected.item(), abs=0.02)
    assert adapted.inactive_margin(torch.tensor([100.0]), torch.tensor([2.0])).item() == -6.0


def test_hierarchical_context_by_its_definition():
    student, teacher = feature(2, 3, 8, 8), feature(2, 3, 8, 8, seed=1)
    levels = [(student, teacher, 1.0)]
    for size, weight in ((4, 0.5), (2, 0.25), (1, 0.125)):
        levels.append((F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size), weight))
    expected = sum(w * (s - t).square().mean() for s, t, w in levels) / sum(w for *_, w in levels)
    assert adapted.hierarchical_context(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)
    single = adapted.hierarchical_context(student[:, :, :1, :1], teacher[:, :, :1, :1])
    assert single.item() == pytest.approx((student - teacher)[:, :, 0, 0].square().mean().item(), rel=1e-5)


def test_review_goes_from_deep_to_shallow_and_ramps_up():
    pairs = [(feature(2, c, s, s), feature(2, c + 1, s, s, seed=1)) for c, s in ((4, 8), (6, 4))]
    embeddings = (feature(2, 6), feature(2, 9, seed=1))
    signals = signals_of(*pairs, embeddings=embeddings, progress=0.5)
    term = adapted.REVIEW.make(Setup(signals, arguments={"width": 5.0, "warmup": 1.0}))
    assert len(term.adapters[0]) == 3
    assert [stage.weigh is None for stage in term.adapters[0]] == [False, False, True]
    half = term.compute(signals)
    half.backward()
    signals.progress = 1.0
    assert term.compute(signals).item() == pytest.approx(2 * half.item(), rel=1e-5)
    assert all(parameter.grad is not None for parameter in term.adapters[0].parameters())


def test_masked_generation_masks_places_and_sums_over_an_example():
    generator = adapted.MaskedGenerator(3, 3)
    student, teacher = feature(2, 3, 4, 4), feature(2, 3, 4, 4, seed=1)
    expected = (generator.generate(student) - teacher).square().sum() / 2
    assert generator(student, teacher, 0.0).item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = (generator.generate(torch.zeros_like(student)) - teacher).square().sum() / 2
    assert generator(student, teacher, 1.0).item() == pytest.approx(nothing.item(), rel=1e-5)


def test_overhaul_halves_the_weight_of_each_shallower_stage():
    pairs = [(feature(2, 3, 4, 4), feature(2, 3, 4, 4, seed=1)), (feature(2, 3, 2, 2), feature(2, 3, 2, 2, seed=1))]
    signals = signals_of(*pairs)
    term = adapted.OFD.make(Setup(signals))
    connectors = term.adapters[0]
    expected = sum(
        adapted.partial_distance(connector(student), teacher, torch.zeros(3)) * weight
        for connector, (student, teacher), weight in zip(connectors, pairs, (0.5, 1.0), strict=True)
    )
    assert term.compute(signals).item() == pytest.approx(expected.item(), rel=1e-5)
