"""SmoothQuant's and AWQ's factors, and that moving them changes nothing but ranges."""

import copy

import torch
from torch import nn

from compresskit.analysis.calibration.moments import output_error
from compresskit.quantization.calibration.layer_inputs import collect_inputs
from compresskit.quantization.formats.uniform import make_grid
from compresskit.quantization.layers.quantized_layer import to_matrix
from compresskit.quantization.transforms.smoothing import move_to_weights, search_factors, smoothing_factors


def test_factors_by_hand():
    factors = smoothing_factors(torch.tensor([16.0, 1.0, 0.0]), torch.tensor([4.0, 1.0, 3.0]), 0.5)
    assert factors.tolist() == [2.0, 1.0, 1.0]
    assert smoothing_factors(torch.tensor([8.0]), torch.tensor([2.0]), 1.0).tolist() == [8.0]
    assert smoothing_factors(torch.tensor([8.0]), torch.tensor([2.0]), 0.0).tolist() == [0.5]


def test_moving_factors_keeps_the_function():
    torch.manual_seed(0)
    for layer, inputs in (
        (nn.Linear(4, 3), torch.randn(5, 4)),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), torch.randn(2, 4, 5, 5)),
    ):
        expected = layer(inputs)
        move_to_weights(layer, torch.tensor([2.0, 0.5, 4.0, 1.0]))
        torch.testing.assert_close(layer(inputs), expected)
        assert layer.input_multiplier.tolist() == [0.5, 2.0, 0.25, 1.0]


def test_awq_protects_the_channel_with_large_inputs():
    torch.manual_seed(0)
    layer = nn.Linear(16, 32, bias=False)
    inputs = torch.randn(256, 16)
    inputs[:, 3] *= 50
    statistics = collect_inputs(nn.Sequential(layer), ["0"], [inputs])["0"]

    def grid_of(matrix):
        return make_grid(matrix, 3, "channel", None, symmetric=True, search="minmax", scale_type="float32")

    before = layer.weight.detach().clone()
    factors = search_factors(layer, statistics, grid_of)
    assert torch.equal(layer.weight, before)
    assert factors.argmax() == 3 and factors[3] > 1.5 * factors[4]

    def error(scales):
        scaled = copy.deepcopy(layer).weight.detach() * scales
        rounded = grid_of(scaled).values(grid_of(scaled).nearest(scaled)) / scales
        return float(output_error(to_matrix(rounded - before, 0), statistics.moments.second_moment()))

    assert error(factors) < 0.5 * error(torch.ones(16))
