"""What is tuned in a model of floats: rates by hand, zeros that stay, the way back to the weights it had."""

import copy

import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.block_walk.blocks import Block, find_blocks
from compresskit.analysis.reconstruction.blockwise import Settings
from compresskit.analysis.reconstruction.floats import float_groups, reconstruct_floats
from compresskit.analysis.reconstruction.plan import Plan
from compresskit.core.types import Loaded

WHOLE = Block(("",), (), "model", (), ())


def test_rates_follow_the_size_of_what_is_not_zero():
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0, 0.0, 4.0]]))
        layer.bias.zero_()
    root = nn.Sequential(layer)
    weight, bias = float_groups(root, WHOLE, ["0.weight"])
    assert weight.lr == pytest.approx(0.02 * (12.5**0.5)) and weight.keeps_zeros
    assert bias.lr == pytest.approx(0.1 * weight.lr) and not bias.keeps_zeros


def test_only_zeros_of_weights_stored_as_bitmaps_stay():
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    changed = copy.deepcopy(whole)
    with torch.no_grad():
        changed[0].weight[:, ::2] = 0.0
        changed[2].weight[:, ::2] = 0.0
    loaded = Loaded(changed, {}, torch.randn(1, 8), storage={"0.weight": "bitmap"})
    batches = list(torch.randn(128, 8).split(16))
    plan = Plan(find_blocks(whole, batches[0]), batches, Settings(40))
    outcomes = reconstruct_floats(whole, loaded, plan)
    assert outcomes and all(one.after < one.before for one in outcomes.values() if one.kept)
    assert (changed[0].weight[:, ::2] == 0).all() and (changed[2].weight[:, ::2] != 0).any()
