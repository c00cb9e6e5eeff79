"""Averages, the best weights, and batch-norm statistics taken anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.training.batchnorm import estimate_batchnorm
from compresskit.training.checkpoints.weights import TrainedWeights


def loaded_of(module: nn.Module, **storage: str) -> Loaded:
    return Loaded(module, {}, torch.zeros(1, 3), storage=storage)


def fill(module: nn.Linear, value: float) -> None:
    with torch.no_grad():
        module.weight.fill_(value)


def test_the_average_by_hand():
    layer = nn.Linear(3, 1, bias=False)
    fill(layer, 0.0)
    weights = TrainedWeights(loaded_of(layer), None, 0.5)
    for step, value in ((0, 1.0), (100, 3.0)):
        fill(layer, value)
        weights.after_update(step)
    # decays 1/10 at first, then the given 1/2
    first = 0.1 * 0.0 + 0.9 * 1.0
    assert weights.average["weight"][0, 0].item() == pytest.approx(0.5 * first + 0.5 * 3.0)
    weights.load_kept()
    assert layer.weight[0, 0].item() == pytest.approx(0.5 * first + 0.5 * 3.0)


def test_the_best_goes_before_the_average_and_the_last():
    layer = nn.Linear(3, 1, bias=False)
    weights = TrainedWeights(loaded_of(layer), None, 0.9)
    fill(layer, 7.0)
    weights.keep_as_best()
    fill(layer, 8.0)
    weights.load_kept()
    assert layer.weight[0, 0].item() == 7.0


def test_zeros_of_bitmaps_are_held_and_others_are_not():
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight[0, 1] = 0
        layer.bias.zero_()
    weights = TrainedWeights(loaded_of(layer, weight="bitmap"), None, None)
    with torch.no_grad():
        layer.weight.add_(1)
        layer.bias.add_(1)
    weights.after_update(0)
    assert layer.weight[0, 1].item() == 0
    assert layer.weight[0, 0].item() != 0
    assert layer.bias.item() == 1


def test_a_checkpoint_brings_all_three_back():
    first, second = nn.Linear(3, 1), nn.Linear(3, 1)
    old, new = TrainedWeights(loaded_of(first), None, 0.9), TrainedWeights(loaded_of(second), None, 0.9)
    old.keep_as_best()
    fill(first, 2.0)
    old.after_update(3)
    new.restore(old.tensors(finished=False), finished=False)
    assert torch.equal(first.weight, second.weight)
    assert all(torch.equal(old.best[name], new.best[name]) for name in old.best)
    assert all(torch.equal(old.average[name], new.average[name]) for name in old.average)


def test_norm_statistics_are_those_of_the_batches():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)).train()
    module[1].running_mean.fill_(99)
    batches = [torch.randn(50, 3) * 2 + 5 for _ in range(4)]
    estimate_batchnorm(module, batches)
    everything = torch.cat(batches)
    assert torch.allclose(module[1].running_mean, everything.mean(0), atol=1e-4)
    # the mean of the batches' unbiased variances; dropout did not run
    assert torch.allclose(module[1].running_var, torch.stack([batch.var(0) for batch in batches]).mean(0), atol=1e-4)
    assert module.training
    assert module[1].momentum == 0.1


def test_models_without_batch_norm_run_nothing():
    def refuse():
        pytest.fail("a batch was asked for")
        yield

    estimate_batchnorm(nn.Linear(3, 3), refuse())
