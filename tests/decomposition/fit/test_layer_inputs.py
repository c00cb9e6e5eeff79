"""Moments and rows of layers' inputs, as decomposition takes them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.decomposition.fit.layer_inputs import batches_of_sites, collect_moments, samples
from compresskit.decomposition.methods.geometry import Geometry
from compresskit.decomposition.surgery.find_layers import Site, survey

CPU = torch.device("cpu")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(4, 4) for _ in range(4))
        self.local = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x, memory):
        scores = self.query(x) @ self.key(memory).mT
        return self.out(scores @ self.value(memory)) + self.local(x.mT).mT


def _moments(sites: list[Site]) -> dict:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = Attention().eval()
    batches = [tuple(torch.randn(3, 20, 4, generator=generator) for _ in range(2)) for _ in range(2)]
    return collect_moments(model, sites, batches, rows=60, seed=7, device=CPU)


def test_layers_that_read_the_same_tensor_share_their_moments():
    sites, _ = survey(Loaded(Attention().eval(), {}, (torch.randn(1, 5, 4), torch.randn(1, 5, 4))))
    shared, alone = _moments(sites), _moments([replace(site, reads=()) for site in sites])
    assert shared["key"] is shared["value"] and shared["key"] is not shared["query"]
    assert alone["key"] is not alone["value"]
    for site in sites:
        assert shared[site.name].count == 60
        assert torch.equal(shared[site.name].covariance, alone[site.name].covariance)
        assert torch.equal(shared[site.name].mean, alone[site.name].mean)


def test_sites_come_in_runs_whose_covariances_fit_together():
    # 9,000 columns take 324 MB in float32, and a gigabyte is held at a time
    sites = [Site(str(number), Geometry("linear", 9000 if number else 3, 2)) for number in range(5)]
    assert [[site.name for site in run] for run in batches_of_sites(sites)] == [["0", "1", "2", "3"], ["4"]]


def test_samples_match_inputs_with_outputs():
    layer = nn.Conv2d(2, 3, 3, groups=1)
    x = torch.randn(4, 2, 6, 5)
    inputs, outputs = samples([(x, layer(x).detach())], layer, 10, seed=1)
    assert inputs.shape == (10, 1, 18) and inputs.dtype == outputs.dtype == torch.float64
    made = inputs[:, 0] @ layer.weight.detach().double().flatten(1).T + layer.bias.detach().double()
    torch.testing.assert_close(made, outputs, rtol=1e-4, atol=1e-5)
