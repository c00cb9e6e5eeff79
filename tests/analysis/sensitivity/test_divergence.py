"""How far outputs move: closed forms, and models that stay as they were."""

import pytest
import torch
from torch import nn

from compresskit.analysis.sensitivity.divergence import OutputReference, class_axis_of, divergence, mean_divergence
from tests.analysis.conftest import Detector


def test_of_class_logits_is_the_divergence_of_probabilities():
    wanted, got = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    p, q = torch.tensor([0.5, 0.5]), torch.softmax(got[0], 0)
    assert divergence(wanted, got) == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)
    assert divergence(wanted, wanted) == 0


def test_of_other_outputs_is_the_relative_squared_error():
    assert divergence(torch.ones(2, 3, 4), torch.full((2, 3, 4), 1.5)) == pytest.approx(0.25)
    assert divergence(torch.ones(4, 1), torch.full((4, 1), 1.5)) == pytest.approx(0.25)


def test_of_token_logits_is_summed_over_the_tokens_of_an_example():
    tokens, logits = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, 2)
    assert class_axis_of(tokens, logits) == 2
    assert class_axis_of({"ids": tokens}, logits) == 2
    assert class_axis_of(torch.zeros(2, 3), logits) is None
    got = torch.tensor([1.0, 0.0]).expand(2, 3, 2)
    one = divergence(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    assert divergence(logits, got, 2) == pytest.approx(3 * one)


def test_the_mean_is_over_examples_not_batches():
    batches = [torch.zeros(1, 5), torch.zeros(3, 5)]
    wanted = [torch.zeros(1, 2), torch.zeros(3, 2)]
    got = [torch.tensor([[1.0, 0.0]]), torch.zeros(3, 2)]
    assert mean_divergence(batches, wanted, got) == pytest.approx(divergence(wanted[0], got[0]) / 4)


def test_a_changed_model_is_measured_and_restored():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)).eval()
    before, x = net[2].weight.detach().clone(), torch.randn(6, 3)
    reference = OutputReference(net, [x[:4], x[4:]])
    assert reference.moved() == 0
    other = nn.Linear(4, 5)
    with torch.no_grad():
        expected = divergence(net(x), other(net[:2](x)))
    original = net[2]
    assert reference.with_layer("2", other) == pytest.approx(expected, rel=1e-4)
    assert net[2] is original
    changes = {"weight": other.weight.detach(), "bias": other.bias.detach()}
    assert reference.with_weights("2", lambda: changes) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(net[2].weight, before)


@torch.no_grad()
def test_of_detectors_the_heads_are_compared_however_many_boxes_there_are():
    torch.manual_seed(0)
    net, images = Detector(), torch.randn(2, 3, 9, 9)
    reference = OutputReference(net, [images])
    assert reference.moved() == 0
    moved = nn.Conv2d(8, 1, 1)
    moved.weight.data, moved.bias.data = net.scores.weight.data, net.scores.bias.data + 1  # more boxes
    assert sum(len(one["boxes"]) for one in net(images)) < 32
    maps = net.body(images).relu()
    heads = [net.scores(maps), net.boxes(maps)]
    size = sum((head / head.std()).square().sum() for head in heads)
    wanted = float(heads[0].numel() / heads[0].std().square() / size)
    assert reference.with_layer("scores", moved) == pytest.approx(wanted, rel=1e-4)
    assert reference.with_layer("scores", nn.Sequential(moved)) == pytest.approx(wanted, rel=1e-4)
