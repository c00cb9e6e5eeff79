"""Reconstruction after a cut: targets are the channels that stay, and the cut model comes nearer to the whole one."""

import copy

import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.block_walk.blocks import find_blocks
from compresskit.core.types import Loaded
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.recovery.blocks import kept_outputs
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.norm(self.two(self.one(x).relu()))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.stages = nn.Sequential(Residual(16), Residual(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.stages(self.stem(x).relu()).relu().mean((2, 3)))


class Data:
    def size(self, split, at_most=None):
        return 512

    def calibration(self, samples, *, batch_size=64, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return list(torch.randn(min(samples, 512), 3, 6, 6, generator=generator).split(batch_size))


@pytest.fixture
def loaded():
    torch.manual_seed(0)
    return Loaded(Net().eval(), {}, torch.randn(1, 3, 6, 6))


def test_the_targets_are_the_channels_that_stay(loaded):
    whole, example = loaded.module, loaded.example
    graph = build_graph(whole, example, "heads")
    group = next(one for one in graph.groups if "stem" in one.name)
    mask = torch.zeros(16, dtype=torch.bool)
    mask[[1, 4, 5, 11]] = True
    keep = graph.keep_ids({group.name: mask.numpy()})
    blocks = {block.name: block for block in find_blocks(whole, example)}
    dim, stays = kept_outputs(whole, blocks["stages.0"], graph, keep)
    assert dim == 1 and stays.tolist() == [1, 4, 5, 11]
    assert kept_outputs(whole, blocks["head"], graph, keep) is None


@pytest.mark.integration
def test_the_cut_model_comes_nearer_to_the_whole_one(loaded):
    fresh = torch.randn(64, 3, 6, 6)
    distances, results = {}, {}
    for how in ("none", "block"):
        cut = Loaded(copy.deepcopy(loaded.module), {}, loaded.example)
        options = {"iterations": 60, "joint_iterations": 60} if how == "block" else {}
        results[how] = prune(
            cut, PruneOptions(target_macs=0.5, round_to=1, reconstruct=how, **options), Context(loaded, data=Data())
        )
        with torch.no_grad():
            distances[how] = float((cut.module(fresh) - loaded.module(fresh)).square().mean())
    assert distances["block"] < 0.5 * distances["none"]
    facts = results["block"].facts
    assert facts["macs_kept"] == results["none"].facts["macs_kept"]
    assert facts["blocks_reconstructed"] > 0 == results["none"].facts["blocks_reconstructed"]
    assert "stages.0" in [row["block"] for row in results["block"].tables["reconstructed blocks"]]
