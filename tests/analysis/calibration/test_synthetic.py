"""Inputs made from the model alone: remembered statistics are met, tokens follow the model's own predictions."""

import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.synthetic import _distance, synthesize


def trained_statistics(data: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    net.train()
    for norm in (net[1], net[4]):
        norm.momentum = None
    with torch.no_grad():
        net(data)
    return net.eval()


def test_distance_is_that_of_means_and_deviations_also_far_from_zero():
    norm = nn.BatchNorm2d(3)
    norm.running_mean.copy_(torch.tensor([50.0, -3.0, 0.0]))
    norm.running_var.copy_(torch.tensor([0.5, 2.0, 1.0]))
    given = torch.randn(6, 3, 5, 7) + norm.running_mean.view(-1, 1, 1) + 0.2
    variance = norm.running_var.double() + norm.eps
    mean = given.double().mean((0, 2, 3)) - norm.running_mean
    spread = (given.double().var((0, 2, 3), unbiased=False) + norm.eps).sqrt() - variance.sqrt()
    wanted = ((mean.square() + spread.square()) / variance).mean()
    assert float(_distance(norm, given)) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.integration
def test_images_have_the_statistics_that_the_norms_remember():
    data = torch.randn(64, 3, 12, 12) @ (0.3 * torch.randn(12, 12)) + 0.5  # unlike noise
    net = trained_statistics(data)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = synthesize(net, torch.zeros(1, 3, 12, 12), samples=40, seed=0)
    (images,) = made.batches
    assert images.shape == (40, 3, 12, 12) and not images.requires_grad
    with torch.no_grad():
        for layer, norm in ((net[:1], net[1]), (net[:4], net[4])):
            noise = (layer(torch.randn(40, 3, 12, 12)).mean((0, 2, 3)) - norm.running_mean).square().mean()
            left = (layer(images).mean((0, 2, 3)) - norm.running_mean).square().mean()
            assert left < 0.05 * noise
    assert "BatchNorm" in made.note
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.integration
def test_a_seed_decides_and_batches_differ():
    net = trained_statistics(torch.randn(16, 3, 8, 8))
    first, second = (synthesize(net, torch.zeros(1, 3, 8, 8), samples=70, seed=3, steps=3).batches for _ in range(2))
    assert [len(batch) for batch in first] == [64, 6]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0][:6], first[1])


class Bigram(nn.Module):
    """Predicts that token t is followed by t + 1, whatever comes after."""

    def __init__(self, looks_ahead: bool = False):
        super().__init__()
        self.table = nn.Embedding(7, 7)
        self.kinds = nn.Embedding(2, 7)
        self.looks_ahead = looks_ahead
        with torch.no_grad():
            self.table.weight.copy_(30 * torch.eye(7).roll(1, 1))
            self.kinds.weight.zero_()

    def forward(self, ids, kinds):
        logits = self.table(ids) + self.kinds(kinds)
        return logits + logits.mean(1, keepdim=True) if self.looks_ahead else logits


def test_tokens_are_drawn_from_the_models_predictions():
    example = {"ids": torch.zeros(1, 5, dtype=torch.int64), "kinds": torch.zeros(1, 5, dtype=torch.int64)}
    made = synthesize(Bigram(), example, samples=20, seed=0)
    (batch,) = made.batches
    assert torch.equal(batch["ids"][:, 1:], (batch["ids"][:, :-1] + 1) % 7)
    assert len(set(batch["ids"][:, 0].tolist())) > 3 and batch["kinds"].eq(0).all()
    assert "its own predictions" in made.note


def test_tokens_of_a_model_that_looks_ahead_are_uniform():
    example = {"ids": torch.zeros(1, 5, dtype=torch.int64), "kinds": torch.zeros(1, 5, dtype=torch.int64)}
    made = synthesize(Bigram(looks_ahead=True), example, samples=64, seed=0)
    counts = made.batches[0]["ids"].flatten().bincount(minlength=7)
    assert counts.min() > 20 and counts.max() < 80 and "uniformly" in made.note


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.BatchNorm1d(4, track_running_stats=False)])
def test_without_remembered_statistics_it_is_noise_and_the_note_warns(norm):
    made = synthesize(nn.Sequential(nn.Linear(4, 4), norm), torch.zeros(1, 4), samples=500, seed=0)
    values = torch.cat(made.batches)
    assert values.shape == (500, 4) and abs(float(values.std()) - 1) < 0.1 and "expect a loss" in made.note
