"""Metrics of predicted tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compresskit.evaluation.metrics import make_metric


class Given(nn.Module):
    """Gives logits that are twice its input."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return x * self.factor


def test_perplexity_is_exp_of_the_token_mean_not_of_the_mean_of_examples():
    # a uniform guess over 4 tokens, and a certain one; 1 and 3 tokens count
    logits = torch.zeros(2, 3, 4)
    logits[1, :, 2] = 50.0
    targets = torch.tensor([[1, -100, -100], [2, 2, 2]])
    score = make_metric("perplexity")(Given(), [(logits, targets)])
    assert score.value == pytest.approx(4 ** (1 / 4)) and score.samples == 2
    assert score.low == pytest.approx(1.0) and score.high == pytest.approx(4.0)


def test_perplexity_of_batches_is_that_of_all():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 5, 7, generator=generator), torch.randint(7, (6, 5), generator=generator)
    whole = make_metric("perplexity")(Given(), [(logits, targets)])
    parts = make_metric("perplexity")(Given(), [(logits[:2], targets[:2]), (logits[2:], targets[2:])])
    expected = math.exp(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    assert whole.value == pytest.approx(expected) and parts == whole and whole.low < expected < whole.high


def test_kl_is_of_the_original_against_the_model():
    x = torch.tensor([[[0.0, math.log(3.0)]]])
    found = make_metric("kl", Given())(Given(0.0), [(x, None)])
    assert found.value == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert make_metric("kl", Given())(Given(), [(x, None)]).value == 0
