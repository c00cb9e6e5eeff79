"""How whole blocks are ranked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded, Preprocessing
from compresskit.data.dataset import Data
from compresskit.data.loaders import splits_of
from compresskit.pruning.importance.block_importance import BlockEvidence, influence, loss_change, output_change
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.block_pruning import prune_blocks, skippable_blocks
from compresskit.training.context import Context


class Block(nn.Module):
    """Adds `strength` times a rotation of its input by 90 degrees."""

    def __init__(self, strength):
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(strength * torch.tensor([[0.0, -1.0], [1.0, 0.0]]))

    def forward(self, x):
        return x + self.linear(x)


class Net(nn.Module):
    """Three blocks; the classifier reads the first coordinate alone."""

    def __init__(self, strengths=(0.1, 1.0, 0.3)):
        super().__init__()
        self.blocks = nn.ModuleList(map(Block, strengths))
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 2.0]])


def test_influence_is_one_minus_the_cosine_of_input_and_output():
    net = Net()
    found = influence(skippable_blocks(net, X[:1]), BlockEvidence(net, [X]))
    for name, strength in zip(found, (0.1, 1.0, 0.3), strict=True):
        assert found[name] == pytest.approx(1 - 1 / (1 + strength**2) ** 0.5, abs=1e-6)


def test_loss_and_outputs_are_those_without_the_block():
    net = Net()
    targets = torch.tensor([0, 1, 0, 1])
    evidence = BlockEvidence(net, [X], [targets])
    evidence.keep_reference()
    blocks = skippable_blocks(net, X[:1])
    losses, changes = loss_change(blocks, evidence), output_change(blocks, evidence)
    for number, name in enumerate(blocks):
        other = Net([strength for place, strength in enumerate((0.1, 1.0, 0.3)) if place != number])
        with torch.no_grad():
            outputs, whole = other(X), net(X)
        assert losses[name] == pytest.approx(float(nn.functional.cross_entropy(outputs, targets)))
        assert changes[name] == pytest.approx(float((outputs - whole).square().sum() / whole.square().sum()))


@pytest.mark.parametrize("importance", ["output", "influence", "loss"])
def test_the_least_important_block_goes(importance):
    net = Net()
    loaded = Loaded(net, {}, X[:1])
    data = Data("x", splits_of((X.repeat(10, 1), torch.tensor([0, 1, 0, 1] * 10)), "x"), Preprocessing())
    options = PruneOptions(granularity="block", ratio=0.34, block_importance=importance)
    result = prune_blocks(loaded, options, Context(loaded, data=data))
    expected = "blocks.1" if importance == "loss" else "blocks.0"  # without the largest rotation the classes lie right
    assert [row["block"] for row in result.tables["removed blocks"]] == [expected]


def test_a_loss_needs_targets():
    loaded = Loaded(Net(), {}, X[:1])
    data = Data("x", splits_of(X.repeat(10, 1), "x"), Preprocessing())
    options = PruneOptions(granularity="block", ratio=0.34, block_importance="loss")
    with pytest.raises(InputError, match="block_importance 'loss' needs data with targets"):
        prune_blocks(loaded, options, Context(loaded, data=data))
    with pytest.raises(ValueError, match="block_importance would be ignored with granularity 'channel'"):
        PruneOptions(ratio=0.5, block_importance="loss")
