"""Blocks of which callers read attributes, and blocks that the model does not run without."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.skips import PassThrough, replay
from compresskit.core.types import Context, Loaded
from compresskit.pruning.depth import prune_blocks
from compresskit.pruning.options import PruneOptions


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
