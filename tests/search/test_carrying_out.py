"""Steps carried out one after the other: the model goes from one to the next, facts are kept apart."""

from __future__ import annotations

import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.search.carrying_out import carry_out
from compresskit.training.context import Context


def loaded():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Loaded(nn.Sequential(*body, nn.Linear(8, 4)).eval(), {}, torch.randn(1, 3, 10, 10))


def test_one_step_gives_its_own_facts():
    model = loaded()
    result = carry_out([{"prune": {"ratio": 0.5, "criterion": "l1"}}], model, Context(original=model.clone()))
    assert result.loaded.module[0].out_channels == 4
    assert "prune" not in result.facts


def test_several_steps_follow_each_other_and_keep_their_facts_apart():
    model = loaded()
    steps = [{"prune": {"ratio": 0.5, "criterion": "l1"}}, {"quantize": {"scheme": "int8-weight"}}]
    result = carry_out(steps, model, Context(original=model.clone()))
    assert {edit["op"] for edit in result.loaded.edits} >= {"resize", "quantized"}
    assert result.loaded.module[0].out_channels == 4
    assert set(result.facts) == {"prune", "quantize"}
