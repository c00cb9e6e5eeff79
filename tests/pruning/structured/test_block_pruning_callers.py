"""Blocks of which callers read attributes, and blocks that the model does not run without."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.artifact.skips import PassThrough, replay
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.block_pruning import prune_blocks, removable_blocks
from compresskit.training.context import Context


class Block(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.inner = kind, nn.Sequential(nn.Linear(4, 4))

    def forward(self, x):
        return x + self.inner(x) * 0.1


class Reads(nn.Module):
    """Its forward reads an attribute of every block, and an inner layer of those of one kind."""

    def __init__(self, kinds):
        super().__init__()
        self.blocks = nn.ModuleList(Block(kind) for kind in kinds)

    def forward(self, x):
        for block in self.blocks:
            x = block(x) + (0 if block.kind == "plain" else block.inner[0].bias)
        return x


def pruned(kinds, ratio):
    loaded = Loaded(Reads(kinds).eval(), {}, torch.ones(1, 4), name="reads")
    options = PruneOptions(granularity="block", ratio=ratio)
    return prune_blocks(loaded, options, Context(loaded))


def test_attributes_that_callers_read_stay():
    result = pruned(["plain"] * 4, 0.5)
    kinds = [type(block) for block in result.loaded.module.blocks]
    assert kinds.count(PassThrough) == 2
    again = Reads(["plain"] * 4)
    for edit in result.loaded.edits:
        replay(again, edit)
    again.load_state_dict(result.loaded.module.state_dict())
    assert torch.equal(again(torch.ones(1, 4)), result.loaded.module(torch.ones(1, 4)))


def test_a_block_that_the_model_reads_from_stays_and_is_named():
    result = pruned(["plain", "read", "plain"], 0.9)
    assert [type(block) for block in result.loaded.module.blocks] == [PassThrough, Block, PassThrough]
    assert any("blocks.1 stays" in note and "inner" in note for note in result.notes)
    with pytest.raises(InputError, match=r"no block can go: blocks.0 stays.*inner"):
        pruned(["read"], 0.9)


class Stage(nn.Module):
    """Runs its blocks one after another; `then` is computed after them."""

    def __init__(self, then=None):
        super().__init__()
        self.steps, self.then = nn.ModuleList(Block("plain") for _ in range(2)), then

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x if self.then is None else self.then(x)


def blocks_of(module, protect=()):
    return list(removable_blocks(Loaded(module.eval(), {}, torch.ones(1, 4), name="net"), list(protect)))


STAGES = ["0.steps.0", "0.steps.1", "1.steps.0", "1.steps.1"]


def test_a_stage_that_only_chains_its_blocks_gives_them_up_one_by_one():
    assert blocks_of(nn.Sequential(Stage(), Stage())) == STAGES
    assert blocks_of(nn.Sequential(nn.Sequential(Stage(), Stage()), nn.Linear(4, 4))) == [f"0.{n}" for n in STAGES]
    assert blocks_of(nn.Sequential(Stage(torch.tanh), Stage())) == ["0", "1.steps.0", "1.steps.1"]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("0.steps.1", ["0.steps.0", "1.steps.0", "1.steps.1"]),
        ("0.steps.1.inner.0", ["0.steps.0", "1.steps.0", "1.steps.1"]),  # a layer inside of a block
        ("0", ["1.steps.0", "1.steps.1"]),  # the stage around it
        ("*.steps.0*", ["0.steps.1", "1.steps.1"]),
    ],
)
def test_a_protected_layer_holds_its_block_and_the_blocks_in_it(pattern, left):
    assert blocks_of(nn.Sequential(Stage(), Stage()), [pattern]) == left


def test_blocks_that_are_all_protected_are_refused_as_such():
    with pytest.raises(InputError, match=r"'net': all of its 4 removable block\(s\) are protected"):
        blocks_of(nn.Sequential(Stage(), Stage()), ["*.inner"])


class Twice(nn.Module):
    """Calls a block with a second argument that it hands on, and once more as `again` says."""

    def __init__(self, again):
        super().__init__()
        self.again, self.blocks = again, nn.ModuleList([Handing()])

    def forward(self, x):
        x, bias = self.blocks[0](x, torch.ones(1))
        return self.again(self, x, bias)


class Handing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4))

    def forward(self, x, bias=None):
        return self.inner(x), x.mean() if bias is None else bias


def test_a_block_called_twice_goes_only_if_one_edit_stands_for_both_calls():
    assert blocks_of(Twice(lambda net, x, bias: net.blocks[0](x, bias)[0])) == ["blocks.0"]
    with pytest.raises(InputError, match="no block passes"):
        blocks_of(Twice(lambda net, x, bias: net.blocks[0](x)[0]))


def test_a_ratio_of_less_than_one_block_removes_one_and_says_so():
    result = pruned(["plain"] * 3, 0.1)
    assert result.facts["blocks_removed"] == 1
    assert "ratio 0.1 of 3 block(s) is less than one; one went" in result.notes
    assert not any("less than one" in note for note in pruned(["plain"] * 3, 0.4).notes)
