"""Statistics of many layers in one run."""

from __future__ import annotations

import torch
from torch import nn

from compresskit.analysis.calibration.collect import collect
from compresskit.analysis.calibration.moments import InputMoments
from compresskit.analysis.calibration.positions import per_batch, per_example


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.unused = nn.Linear(3, 2), nn.Linear(3, 4), nn.Linear(3, 2)

    def forward(self, x):
        return self.query(x) @ self.key(input=x).mT[..., :2, :]


def _everything() -> InputMoments:
    return InputMoments(per_batch(10**6, torch.Generator()))


def test_layers_that_the_data_does_not_reach_are_absent():
    x = torch.randn(2, 5, 3, requires_grad=True)
    found = collect(Branches(), {name: _everything() for name in ("key", "unused", "query")}, [x])
    assert list(found) == ["key", "query"]
    assert torch.equal(found["key"].sums.second, found["query"].sums.second)
    assert found["key"].sums.count == 10 and not found["key"].sums.second.requires_grad
    assert collect(Branches(), {"key": _everything()}, []) == {}


def test_one_sampler_may_serve_all_layers_or_each_its_own():
    model, x = Branches(), torch.randn(2, 50, 3)
    shared = per_example(4, torch.Generator().manual_seed(0))
    found = collect(model, {name: InputMoments(shared) for name in ("query", "key")}, [x])
    assert not torch.equal(found["key"].sums.second, found["query"].sums.second)
    own = {name: InputMoments(per_example(4, torch.Generator().manual_seed(0))) for name in ("query", "key")}
    found = collect(model, own, [x])
    assert torch.equal(found["key"].sums.second, found["query"].sums.second)


def test_inputs_in_sixteen_bits_are_summed_in_wider_types():
    model, x = nn.Sequential(nn.Linear(3, 2)).bfloat16(), torch.full((300, 3), 1.5)
    sums = collect(model, {"0": _everything()}, [x])["0"].sums
    assert sums.second.dtype == torch.float64 and sums.second[0, 0, 0] == 300 * 2.25


def test_layers_that_read_the_same_tensors_share_a_statistic_which_one_of_them_feeds():
    one, x = _everything(), torch.randn(2, 5, 3)
    found = collect(Branches(), {"key": one, "query": one}, [x])
    assert found == {"key": one, "query": one} and one.sums.count == 10
