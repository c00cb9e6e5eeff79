"""Schedules against torch's and by hand; groups; clipping."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.training.optim import clip_gradients, cosine, learning_rate, make_optimizer, parameter_groups
from compresskit.training.options import TrainOptions


def test_biases_and_norms_are_not_decayed():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3))
    decayed, plain = parameter_groups([module], 0.1)
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 1, 3, 3), (3, 2)]
    assert len(plain["params"]) == 4
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)


def test_tied_weights_stand_once_and_frozen_ones_not_at_all():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    frozen = nn.Linear(2, 2)
    frozen.requires_grad_(requires_grad=False)
    groups = parameter_groups([first, second, frozen], 0.1)
    assert sum(len(group["params"]) for group in groups) == 1
    with pytest.raises(InputError, match="no trainable parameters"):
        parameter_groups([frozen], 0.1)


def test_cosine_with_warmup_by_hand():
    options = TrainOptions(lr=0.4, lr_schedule="cosine", warmup=0.2)
    rates = [learning_rate(step, 10, options) for step in range(10)]
    assert rates[:2] == pytest.approx([0.2, 0.4])
    assert rates[2] == pytest.approx(0.4)
    assert rates[6] == pytest.approx(0.2)  # half of the eight steps after warm-up
    assert learning_rate(10, 10, options) == pytest.approx(0)


def test_constant_after_warmup():
    options = TrainOptions(lr=0.4, lr_schedule="constant", warmup=0.0)
    assert [learning_rate(step, 3, options) for step in range(3)] == [0.4] * 3


@pytest.mark.parametrize(("total", "settings", "share"), [(100, {}, 0.3), (37, {"warmup": 0.5}, 0.5)])
def test_one_cycle_is_torchs(total, settings, share):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    peer = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total, pct_start=share, cycle_momentum=False)
    options = TrainOptions(lr=0.1, lr_schedule="one-cycle", **settings)
    for step in range(total):
        assert learning_rate(step, total, options) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9), step
        optimizer.step()
        if step + 1 < total:
            peer.step()


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle", "constant"])
def test_a_run_of_one_step_has_a_positive_rate(schedule):
    assert learning_rate(0, 1, TrainOptions(lr=0.1, lr_schedule=schedule)) > 0


def test_optimizers_take_their_options():
    module = nn.Linear(2, 2)
    sgd = make_optimizer([module], TrainOptions(lr=0.3, momentum=0.5))
    assert (sgd.defaults["lr"], sgd.defaults["momentum"]) == (0.3, 0.5)
    assert isinstance(make_optimizer([module], TrainOptions(optimizer="adamw")), torch.optim.AdamW)


@pytest.mark.parametrize("largest", [0.1, 100.0])
def test_clipping_is_torchs(largest):
    parameters = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))]
    others = [nn.Parameter(p.detach().clone()) for p in parameters]
    for group in (parameters, others):
        torch.manual_seed(0)
        for p in group:
            p.grad = torch.randn_like(p)
    mine, theirs = clip_gradients(parameters, largest), nn.utils.clip_grad_norm_(others, largest)
    assert mine == pytest.approx(theirs.item(), rel=1e-5)
    for p, other in zip(parameters, others, strict=True):
        assert torch.allclose(p.grad, other.grad, atol=1e-6)


def test_the_learning_rate_falls_along_half_a_cosine():
    assert [cosine(1.0, 0.0, share) for share in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
