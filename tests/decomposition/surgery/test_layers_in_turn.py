"""Layers one after the other: block by block as in runs of the whole model, and in a number of runs that is linear."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.decomposition.surgery import layers_in_turn
from compresskit.decomposition.surgery.find_layers import survey
from compresskit.decomposition.surgery.layers_in_turn import _calls_of
from compresskit.training.context import Context


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return x + self.two(self.one(x).relu())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(inplace=True)
        self.stages = nn.Sequential(Residual(12), Residual(12))
        self.head = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16))

    def forward(self, x):
        return self.head(self.stages(self.relu(self.stem(x))).mean((2, 3)))


class Data:
    def calibration(self, samples, *, batch_size=64, seed=0):
        return list(torch.randn(96, 3, 6, 6, generator=torch.Generator().manual_seed(seed)).split(32))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize("inputs", ["compressed", "original"])
@pytest.mark.integration
def test_block_by_block_is_as_in_runs_of_the_whole_model(inputs, net, monkeypatch):
    options = DecomposeOptions(
        kind="channel-svd",
        keep_ratio=0.4,
        objective="nonlinear",
        inputs=inputs,
        slower_layers="allow",
        reconstruct="none",
    )  # fmt: skip
    found = []
    for blocks in (layers_in_turn.find_blocks, lambda *_: []):
        monkeypatch.setattr(layers_in_turn, "find_blocks", blocks)
        loaded = Loaded(copy.deepcopy(net), {}, torch.randn(1, 3, 6, 6))
        assert decompose(loaded, options, Context(loaded.clone(), data=Data())).facts["layers_decomposed"] >= 5
        found.append(loaded.module.state_dict())
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-3, atol=1e-4)


def test_each_block_runs_as_often_whatever_the_depth(net):
    runs = {}
    for depth in (2, 6):
        torch.manual_seed(0)
        deep = Net().eval()
        deep.stages = nn.Sequential(*(Residual(12) for _ in range(depth))).eval()
        loaded, count = Loaded(deep, {}, torch.randn(1, 3, 6, 6)), []
        loaded.module.stem.register_forward_hook(lambda *_, count=count: count.append(1))
        reference = copy.deepcopy(deep)
        sites, _ = survey(loaded)
        batches = Data().calibration(96)
        for _, pairs in layers_in_turn.inputs_and_outputs(
            loaded, reference, sites, batches, torch.device("cpu"), compressed=True
        ):
            assert sum(len(x) for x, _ in pairs) == 96
        runs[depth] = len(count)
    assert runs[2] == runs[6]


def test_calls_stop_at_the_layer_and_keep_what_an_in_place_relu_overwrites():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4)).eval()
    (site, _), _ = survey(Loaded(net, {}, torch.randn(1, 4)))
    ran = []
    net[2].register_forward_hook(lambda *_: ran.append(1))
    x = torch.randn(32, 4)
    ((inputs, output),) = _calls_of(net, site, partial(net, x))
    assert torch.equal(inputs, x) and (output < 0).any() and not ran
