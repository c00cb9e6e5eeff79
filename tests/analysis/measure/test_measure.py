"""Measurements against hand-computed counts."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.latency import latency_ab
from compresskit.analysis.measure.measure import macs, parameter_count, peak_memory_bytes


def test_macs_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, groups=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Flatten(),
        nn.Linear(8 * 25, 7),
    )
    assert macs(net, torch.zeros(1, 3, 5, 5)) == 25 * 9 * 3 * 8 + 25 * 9 * 8 + 8 * 25 * 7


def test_macs_see_attention():
    attention = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.zeros(1, 10, 16)
    # projections 4 x (10 x 16 x 16), scores and values 2 x (10 x 10 x 16)
    assert macs(attention, (x, x, x)) == 4 * 10 * 16 * 16 + 2 * 10 * 10 * 16


def test_shared_parameters_count_once():
    layer = nn.Linear(4, 4)
    assert parameter_count(nn.Sequential(layer, layer)) == 20


class Sleeper(nn.Module):
    """Takes a known time."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return x


def test_latency_ratio_of_known_times():
    found = latency_ab(Sleeper(0.02), Sleeper(0.005), torch.zeros(1), rounds=3)
    assert 2 < found.speedup < 4.5  # 4 but for what a busy machine adds to both
    assert found.speedup_low <= found.speedup <= found.speedup_high
    assert found.baseline_ms > 20


def test_peak_memory_is_at_least_the_largest_activations():
    net = nn.Sequential(nn.Linear(10, 100000), nn.ReLU(), nn.Linear(100000, 1))
    peak = peak_memory_bytes(net, torch.zeros(1, 10))
    assert peak is not None
    assert 2 * 400000 <= peak < 4 * 400000


def test_mode_is_restored():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    macs(net, torch.zeros(1, 2))
    assert net.training


@pytest.mark.parametrize("batch", [1, 4])
def test_macs_grow_with_the_batch(batch):
    assert macs(nn.Linear(3, 5), torch.zeros(batch, 3)) == 15 * batch


class Remembering(nn.Module):
    """Keeps what its first call made, as caches of positions and anchors do."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.kept = nn.Linear(3, 3), nn.BatchNorm1d(3), None

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.ones_like(x) * 2
        return self.norm(self.layer(x)) * self.kept


@pytest.mark.parametrize("measured", ["macs", "memory", "latency"])
def test_measuring_leaves_a_model_that_trains_as_it_was(measured):
    net, x = Remembering().train(), torch.randn(4, 3)
    net.norm.eval()
    measure = {
        "macs": lambda: macs(net, x),
        "memory": lambda: peak_memory_bytes(net, x),
        "latency": lambda: latency_ab(net, net, x, rounds=1),
    }
    before = net.norm.running_mean.clone()
    measure[measured]()
    assert [layer.training for layer in net.modules()] == [True, True, False]
    assert torch.equal(net.norm.running_mean, before)
    net(x).sum().backward()
