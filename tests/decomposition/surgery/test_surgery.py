"""Putting factors in: bias, normalization, asymmetric fitting."""

import copy

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.training.batchnorm import estimate_batchnorm
from compresskit.training.context import Context


class _Batches:
    """Calibration inputs that come from nowhere but a seed."""

    def __init__(self, *shape):
        generator = torch.Generator().manual_seed(0)
        mix = torch.randn(shape[1], shape[1], generator=generator)
        noise = torch.randn(shape, generator=generator)
        self.inputs = torch.einsum("bi...,ij->bj...", noise, mix) + 1

    def size(self, split, at_most=None):
        return len(self.inputs)

    def calibration(self, samples, *, batch_size=64, seed=0):
        return list(self.inputs[:samples].split(batch_size))


def _net():
    net = nn.Sequential(
        nn.Conv2d(6, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 36, 8),
    )  # fmt: skip
    return Loaded(net.eval(), {}, torch.randn(1, 6, 6, 6))


def _decomposed(data, **options):
    torch.manual_seed(0)
    loaded = _net()
    wanted = loaded.module(data.inputs)
    options = DecomposeOptions(kind="channel-svd", keep_ratio=0.3, slower_layers="allow", **options)
    decompose(loaded, options, Context(loaded.clone(), data=data))
    return loaded, (loaded.module(data.inputs) - wanted).square().mean().item()


def test_each_step_towards_the_data_lowers_the_models_output_error():
    data = _Batches(64, 6, 6, 6)
    errors = [
        _decomposed(data, **options)[1]
        for options in (
            {"objective": "weight"},
            {"objective": "activation"},
            {"objective": "activation", "inputs": "compressed"},
        )
    ]
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.97 * errors[1]


def test_a_layer_gets_a_bias_only_where_no_normalization_can_take_it():
    loaded, _ = _decomposed(_Batches(64, 6, 6, 6), objective="activation")
    biases = {edit["target"]: edit["bias"] for edit in loaded.edits}
    assert biases == {"0": False, "3": True, "5": True, "8": True}
    plain = _net().module
    assert not torch.equal(loaded.module[1].running_mean, plain[1].running_mean)


def test_fitted_layers_have_the_right_mean_output():
    data = _Batches(64, 6, 6, 6)
    torch.manual_seed(0)
    loaded = _net()
    wanted = loaded.module[:2](data.inputs).mean((0, 2, 3))
    options = DecomposeOptions(
        kind="channel-svd", keep_ratio=0.2, objective="activation", layers=["0"], slower_layers="allow"
    )
    decompose(loaded, options, Context(loaded.clone(), data=data))
    torch.testing.assert_close(loaded.module[:2](data.inputs).mean((0, 2, 3)), wanted, rtol=1e-3, atol=1e-4)


def test_reestimated_statistics_are_those_of_the_data():
    data = _Batches(64, 6, 6, 6)
    loaded = _net()
    before = copy.deepcopy(loaded.module.state_dict())
    assert estimate_batchnorm(loaded.module, [data.inputs], torch.device("cpu")) == 1
    outputs = loaded.module[0](data.inputs)
    torch.testing.assert_close(loaded.module[1].running_mean, outputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert not loaded.module.training and loaded.module[1].momentum == 0.1
    assert before.keys() == loaded.module.state_dict().keys()


@pytest.mark.parametrize("objective", ["activation", "nonlinear"])
@pytest.mark.integration
def test_fitting_is_deterministic(objective):
    data = _Batches(64, 6, 6, 6)
    first, second = (_decomposed(data, objective=objective, inputs="compressed")[0] for _ in range(2))
    for name, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name]), name
