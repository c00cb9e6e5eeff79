"""Relational losses against their equations written out, and against torchdistill where it is installed."""

from __future__ import annotations

import math
from importlib import import_module

import pytest
import torch
from torch.nn import functional as F

from compresskit.distillation.losses import relations
from compresskit.distillation.losses.term import DistillationBatch, Setup


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def peer(name: str):
    pytest.importorskip("torchdistill")
    return getattr(import_module("torchdistill.losses.mid_level"), name)


def test_similarity_by_hand():
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # Gram matrix: identity
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # all ones, rows of length sqrt 2
    half = 2**-0.5
    expected = ((1 - half) ** 2 * 2 + half**2 * 2) / 4
    assert relations.similarity_preserving(student, teacher).item() == pytest.approx(expected)


def test_similarity_by_its_equation():
    # the rows have unit L2 length, as in the paper (torchdistill's have unit L1 length)
    student, teacher = rows(6, 3, 4, 4), rows(6, 5, 2, 2, seed=1)
    grams = []
    for side in (student, teacher):
        gram = torch.stack([torch.stack([(a * b).sum() for b in side]) for a in side])
        grams.append(gram / gram.norm(dim=1, keepdim=True))
    expected = (grams[0] - grams[1]).norm() ** 2 / 36
    assert relations.similarity_preserving(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


def test_correlation_nears_the_gaussian_kernel_as_the_order_grows():
    unit = F.normalize(rows(4, 3), dim=1)
    exact = torch.exp(-0.4 * torch.cdist(unit, unit).square())
    assert torch.allclose(relations.correlation(unit, gamma=0.4, order=12), exact, atol=1e-5)


def test_correlation_is_torchdistills():
    loss = peer("CCKDLoss")("m", "m", {"type": "gaussian", "gamma": 0.4, "max_p": 2}, reduction="batchmean")
    unit = F.normalize(rows(5, 8), dim=1)
    theirs = loss.compute_cc_mat_by_gaussian_rbf(unit)
    assert torch.allclose(relations.correlation(unit, gamma=0.4, order=2), theirs, atol=1e-6)


def test_correlation_congruence_is_the_mean_square_of_kernel_differences():
    student, teacher = rows(5, 8), rows(5, 3, seed=1)
    kernels = [relations.correlation(F.normalize(x, dim=1), gamma=0.4, order=2) for x in (student, teacher)]
    expected = (kernels[0] - kernels[1]).norm() ** 2 / 25
    assert relations.correlation_congruence(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


def test_distances_by_hand():
    # a 3-4-5 triangle: the mean of the six distances is 4
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    expected = torch.tensor([[0.0, 3.0, 4.0], [3.0, 0.0, 5.0], [4.0, 5.0, 0.0]]) / 4
    assert torch.allclose(relations.distances(corners), expected, atol=1e-5)


def test_angles_by_hand():
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    found = relations.angles(corners)
    assert found[0, 1, 2].item() == pytest.approx(0, abs=1e-6)  # right angle at the first corner
    assert found[1, 0, 2].item() == pytest.approx(3 / 5)  # at (3, 0) between the legs 3 and 5
    assert found[2, 0, 1].item() == pytest.approx(4 / 5)


def test_relational_does_not_change_with_scale_rotation_or_shift():
    teacher = rows(6, 3)
    turn, _ = torch.linalg.qr(rows(3, 3, seed=2))
    moved = 3 * teacher @ turn + 5
    assert relations.relational(moved, teacher).item() == pytest.approx(0, abs=1e-4)


def test_relational_is_torchdistills():
    loss = peer("RKDLoss")("m", "m", 25.0, 50.0, "mean")
    student, teacher = rows(6, 8), rows(6, 5, seed=1)
    theirs = loss({"m": {"output": student}}, {"m": {"output": teacher}})
    assert relations.relational(student, teacher).item() == pytest.approx(theirs.item(), rel=1e-4)


def test_relational_of_equal_examples_has_a_finite_slope():
    student = torch.ones(3, 4, requires_grad=True)
    relations.relational(student, rows(3, 4)).backward()
    assert torch.isfinite(student.grad).all()


def test_probabilistic_by_its_equation():
    student, teacher = rows(4, 8), rows(4, 5, seed=1)
    tables = []
    for side in (student, teacher):
        cosine = torch.stack([torch.stack([F.cosine_similarity(a, b, dim=0) for b in side]) for a in side])
        similarity = (cosine + 1) / 2
        tables.append(similarity / similarity.sum(1, keepdim=True))
    q, p = tables
    expected = (p * (p / q).log()).mean()
    assert relations.probabilistic(student, teacher).item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-8)


def test_probabilistic_is_torchdistills():
    loss = peer("PKTLoss")("m", "output", "m", "output")
    student, teacher = rows(6, 8), rows(6, 5, seed=1)
    theirs = loss({"m": {"output": student}}, {"m": {"output": teacher}})
    assert relations.probabilistic(student, teacher).item() == pytest.approx(theirs.item(), rel=1e-4)


def test_the_correlation_term_embeds_both_sides_in_one_width():
    signals = DistillationBatch(torch.zeros(1), torch.zeros(1), embeddings=(rows(4, 6), rows(4, 9, seed=1)))
    term = relations.CC.make(Setup(signals, arguments={"gamma": 0.4, "order": 2.0, "width": 16.0}))
    assert [tuple(layer.weight.shape) for layer in term.adapters[0]] == [(16, 6), (16, 9)]
    assert math.isfinite(term.compute(signals).item())
