"""Losses for transformers: attention and relations written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from compresskit.core.errors import ShapeError
from compresskit.distillation.losses import transformer
from compresskit.distillation.losses.term import DistillationBatch, Setup


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_scores_explain_torchs_attention():
    q, k, v = (values(2, 3, 5, 4, seed=seed) for seed in range(3))
    weights = transformer.attention_scores(q, k).softmax(-1)
    assert torch.allclose(weights @ v, F.scaled_dot_product_attention(q, k, v), atol=1e-6)


def test_attention_maps_by_hand():
    one = torch.ones(1, 1, 2, 4)  # scores 4 / sqrt 4 = 2
    half = 0.5 * one  # scores 1 / 2
    assert transformer.attention_maps((one, one), (half, half)).item() == pytest.approx(1.5**2)


def test_attention_maps_average_heads_of_other_number():
    student, teacher = (
        (values(2, 2, 5, 4), values(2, 2, 5, 4, seed=1)),
        (values(2, 4, 5, 8), values(2, 4, 5, 8, seed=1)),
    )
    means = [transformer.attention_scores(*pair).mean(1) for pair in (student, teacher)]
    expected = (means[0] - means[1]).square().mean()
    assert transformer.attention_maps(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


def test_relation_by_its_equation():
    vectors = values(1, 2, 3, 4)  # two attention heads of four channels
    joined = torch.cat([vectors[0, 0], vectors[0, 1]], dim=1)
    found = transformer.self_relation(vectors, heads=4)
    for head in range(4):
        part = joined[:, 2 * head : 2 * head + 2]
        assert torch.allclose(found[0, head].exp(), (part @ part.T / 2**0.5).softmax(-1), atol=1e-6)


def test_relation_loss_takes_other_widths_and_is_zero_for_itself():
    student = tuple(values(2, 2, 5, 4, seed=seed) for seed in range(3))
    teacher = tuple(values(2, 4, 5, 8, seed=seed + 5) for seed in range(3))
    assert transformer.self_attention_relation(teacher, teacher, heads=2).item() == pytest.approx(0, abs=1e-6)
    found = transformer.self_attention_relation(student, teacher, heads=2)
    expected = sum(
        F.kl_div(
            transformer.self_relation(mine, heads=2),
            transformer.self_relation(theirs, heads=2),
            reduction="sum",
            log_target=True,
        )
        / (2 * 2 * 5)
        for mine, theirs in zip(student, teacher, strict=True)
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_relation_heads_that_do_not_divide_are_refused():
    with pytest.raises(ShapeError, match="8 channels do not split into 3 relation heads"):
        transformer.self_relation(values(1, 2, 3, 4), heads=3)


def test_hidden_states_are_projected_where_widths_differ():
    pairs = [(values(2, 5, 4), values(2, 5, 6, seed=1)), (values(2, 5, 6), values(2, 5, 6, seed=1))]
    signals = DistillationBatch(torch.zeros(1), torch.zeros(1), features=pairs)
    term = transformer.HIDDEN.make(Setup(signals))
    first, second = term.adapters[0]
    expected = (first(pairs[0][0]) - pairs[0][1]).square().mean() + (pairs[1][0] - pairs[1][1]).square().mean()
    assert not list(second.parameters())
    assert term.compute(signals).item() == pytest.approx(expected.item(), rel=1e-5)


def test_hidden_states_of_other_lengths_are_refused():
    with pytest.raises(ShapeError, match="hidden states differ in shape"):
        transformer.hidden_states(values(2, 5, 4), values(2, 6, 4))
