"""Losses are read in groups, in order, and the first that is not finite is named with its step."""

import math

import pytest
import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.errors import Diverged
from compresskit.data.dataset import open_data
from compresskit.training import step_losses
from compresskit.training.context import Context
from compresskit.training.loop import train
from compresskit.training.options import TrainOptions
from compresskit.training.step_losses import StepLosses


def test_it_is_time_to_look_after_so_many_steps():
    losses = StepLosses(3)
    assert [losses.note(step, torch.tensor(float(step)), {"kd": torch.tensor(0.5)}) for step in range(3)] == [
        False, False, True,
    ]  # fmt: skip
    assert math.isnan(losses.latest)
    assert losses.read(9, 0.1) == [(float(step), {"kd": 0.5}) for step in range(3)]
    assert losses.latest == 2.0 and losses.read(9, 0.1) == []


def test_the_first_loss_that_is_not_finite_is_named():
    losses = StepLosses(8)
    for step, value in enumerate([1.0, math.inf, math.nan]):
        losses.note(step, torch.tensor(value), {})
    with pytest.raises(Diverged, match=r"became inf at step 2 of 9; lower lr \(now 0.1\)"):
        losses.read(9, 0.1)


def test_losses_hold_no_graph():
    weight = nn.Parameter(torch.ones(()))
    losses = StepLosses(8)
    losses.note(0, 2 * weight, {"task": 3 * weight})
    ((_, loss, parts),) = losses._waiting
    assert not loss.requires_grad and not parts["task"].requires_grad


def test_reading_many_steps_at_once_changes_no_figure(monkeypatch):
    """As on an accelerator: neither weights nor histories depend on when losses are read."""
    found = []
    for every in (1, 7):
        monkeypatch.setattr(step_losses.StepLosses, "on", classmethod(lambda cls, device, every=every: cls(every)))
        torch.manual_seed(0)
        loaded = load_model("builtin:digits_mlp", model_args={"hidden": 16})
        context = Context(original=loaded.clone(), data=open_data("digits", loaded.preprocessing))
        facts = train(loaded, TrainOptions(epochs=0.9, lr=0.1, batch_size=64, grad_clip=1.0), context)
        found.append(([row["loss"] for row in facts["history"]], loaded.module.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


def test_weights_that_overflowed_are_named_with_the_loss():
    losses = StepLosses(1)
    losses.note(0, torch.tensor(2e30), {})
    losses.read(1, 0.1)
    norm = nn.BatchNorm1d(2)
    losses.check_weights(norm, 0.1)
    norm.running_mean[1] = math.nan
    with pytest.raises(Diverged, match=r"running_mean holds NaN .* last loss of 2e\+30; lower lr \(now 0.1\)"):
        losses.check_weights(norm, 0.1)
