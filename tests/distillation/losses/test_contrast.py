"""Contrastive distillation: the likelihood by hand, the memory's bookkeeping, and torchdistill's value."""

from __future__ import annotations

import math
from importlib import import_module

import pytest
import torch
from torch.nn import functional as F

from compresskit.core.errors import InputError
from compresskit.distillation.losses.contrast import CRD, Memory, noise_contrastive
from compresskit.distillation.losses.term import DistillationBatch, Setup


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def memory(examples: int = 20, negatives: int = 7) -> Memory:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Memory(examples, 4, negatives=negatives, temperature=0.07, momentum=0.5)


def test_likelihood_by_hand():
    # two negatives out of four examples: noise 2/4
    scores = torch.tensor([[0.5, 1.5, 0.25]])
    expected = -(math.log(0.5 / 1.0) + math.log(0.5 / 2.0) + math.log(0.5 / 0.75))
    assert noise_contrastive(scores, examples=4).item() == pytest.approx(expected, rel=1e-5)


def test_likelihood_is_torchdistills():
    pytest.importorskip("torchdistill")
    peer = import_module("torchdistill.losses.mid_level").CRDLoss
    scores = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) + 0.1

    class Settings:
        num_samples, eps = 50, 1e-7

    theirs = peer.compute_contrast_loss(Settings, scores.clone())
    assert noise_contrastive(scores, examples=50).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_scores_put_the_positive_first_and_are_normalized_by_the_first_batch():
    bank = memory()
    student, teacher, indices = unit(3, 4), unit(3, 4, seed=1), torch.tensor([4, 0, 19])
    before = bank.teacher.clone()
    mine, _ = bank(student, teacher, indices)
    assert mine.shape == (3, 8)
    raw = ((student * before[indices]).sum(1) / 0.07).exp()
    assert torch.allclose(mine[:, 0], raw / bank.constants[0], rtol=1e-5)
    assert mine.mean().item() == pytest.approx(1 / 20, rel=1e-5)  # constant = mean * examples


def test_the_memory_takes_the_embeddings_in_before_the_next_batch():
    bank = memory()
    student, teacher, indices = unit(2, 4), unit(2, 4, seed=1), torch.tensor([3, 5])
    before = bank.student.clone()
    bank(student, teacher, indices)
    assert torch.equal(bank.student, before)
    bank.flush()
    assert torch.allclose(bank.student[indices], F.normalize(0.5 * before[indices] + 0.5 * student), atol=1e-6)
    untouched = [row for row in range(20) if row not in (3, 5)]
    assert torch.equal(bank.student[untouched], before[untouched])


def test_the_term_has_a_gradient_and_pulls_the_pair_together():
    embeddings = (torch.randn(4, 6, generator=torch.Generator().manual_seed(3)), unit(4, 9, seed=4))
    signals = DistillationBatch(torch.zeros(1), torch.zeros(1), embeddings=embeddings, indices=torch.arange(4))
    settings = {"negatives": 16.0, "temperature": 0.07, "momentum": 0.5, "width": 8.0}
    term = CRD.make(Setup(signals, arguments=settings, examples=30))
    optimizer = torch.optim.SGD(term.adapters[0].parameters(), lr=0.05)
    torch.manual_seed(0)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = term.compute(signals)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert sum(values[-5:]) < sum(values[:5])


def test_without_indices_or_examples_it_says_so():
    signals = DistillationBatch(torch.zeros(1), torch.zeros(1), embeddings=(unit(4, 6), unit(4, 9)))
    with pytest.raises(InputError, match="crd needs to know the training data's examples"):
        CRD.make(Setup(signals, arguments=CRD.arguments))
    term = CRD.make(Setup(signals, arguments=CRD.arguments, examples=30))
    with pytest.raises(InputError, match="crd needs the indices"):
        term.compute(signals)


def test_negatives_come_from_the_other_classes_each_as_often():
    classes = torch.tensor([2, 0, 1, 0, 2, 2, 1, 0])
    bank = Memory(8, 4, negatives=4000, temperature=0.07, momentum=0.5, classes=classes)
    torch.manual_seed(0)
    indices = torch.tensor([1, 2, 4])
    drawn = bank.draw(indices)
    for row, index in zip(drawn, indices.tolist(), strict=True):
        counts = row.bincount(minlength=8)
        others = classes != classes[index]
        assert counts[~others].sum() == 0
        expected = 4000 / others.sum()
        assert (counts[others] - expected).abs().max() < 5 * expected**0.5
    alone = Memory(8, 4, negatives=4000, temperature=0.07, momentum=0.5, classes=torch.zeros(8, dtype=torch.int64))
    assert alone.draw(indices).unique().tolist() == list(range(8))


def test_the_memory_holds_only_the_examples_that_the_training_uses():
    embeddings = (unit(2, 6), unit(2, 6, seed=1))
    rows = torch.full((10,), -1)
    rows[[3, 5, 9]] = torch.arange(3)
    signals = DistillationBatch(torch.zeros(1), torch.zeros(1), embeddings=embeddings, indices=torch.tensor([9, 3]))
    settings = {**CRD.arguments, "width": 4.0}
    term = CRD.make(Setup(signals, arguments=settings, examples=3, rows=rows))
    assert term.memory.student.shape == (3, 4) and term.memory.negatives == 3
    before = term.memory.student.clone()
    term.compute(signals)
    term.memory.flush()
    assert [not torch.equal(a, b) for a, b in zip(before, term.memory.student, strict=True)] == [True, False, True]


def test_settings_are_the_released_ones():
    assert CRD.weight == 0.8 and CRD.task_weight == 1.0
    assert CRD.arguments == {"negatives": 16384.0, "temperature": 0.07, "momentum": 0.5, "width": 128.0}
