"""Metrics of embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.evaluation.metric_terms.embeddings import embeddings, nearest
from compresskit.evaluation.metrics import make_metric


class Turned(nn.Module):
    """Turns vectors of two numbers by an angle; the second half of them only, where `half`."""

    def __init__(self, angle, *, half=False):
        super().__init__()
        self.turn = nn.Parameter(
            torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        )
        self.half = half

    def forward(self, x):
        turned = x @ self.turn.T
        return torch.cat([x[: len(x) // 2], turned[len(x) // 2 :]]) if self.half else turned


X = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])


def test_padding_does_not_count():
    states = torch.tensor([[[2.0], [4.0], [90.0]], [[1.0], [1.0], [1.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert embeddings(states, {"attention_mask": mask}).tolist() == [[3.0], [1.0]]
    assert embeddings(states, states)[0].item() == 32.0
    assert embeddings(torch.arange(8.0).reshape(1, 2, 2, 2), None).tolist() == [[1.5, 5.5]]


def test_nearest_leaves_the_example_itself_out():
    assert nearest(X, 1).flatten().tolist() == [1, 0, 3, 2]
    many = torch.randn(700, 8, generator=torch.Generator().manual_seed(0))
    unit = nn.functional.normalize(many, dim=1)
    expected = (unit @ unit.T).fill_diagonal_(-2).topk(5).indices
    assert torch.equal(nearest(many, 5), expected)


def test_cosine_is_against_the_original():
    score = make_metric("cosine", Turned(0.0))(Turned(0.3), [(X, None)])
    assert score.value == pytest.approx(math.cos(0.3)) and score.samples == 4


def test_neighbours_stay_under_a_turn_of_all_and_not_of_half():
    assert make_metric("neighbours", Turned(0.0), {"k": 1})(Turned(1.0), [(X, None)]).value == 1
    half = make_metric("neighbours", Turned(0.0), {"k": 1})
    assert half(Turned(-math.pi / 2 + 0.05, half=True), [(X, None)]).value < 1


def test_retrieval_finds_the_same_class():
    assert make_metric("retrieval")(Turned(0.0), [(X, torch.tensor([0, 0, 1, 1]))]).value == 1
    score = make_metric("retrieval")(Turned(0.0), [(X[:2], torch.tensor([0, 0])), (X[2:], torch.tensor([1, 0]))])
    assert score.value == 0.5 and score.low < 0.5 < score.high
    assert make_metric("retrieval", arguments={"k": 3})(Turned(0.0), [(X, torch.tensor([0, 1, 0, 1]))]).value == 1
    with pytest.raises(InputError, match="needs a class an example"):
        make_metric("retrieval")(Turned(0.0), [(X, X)])
