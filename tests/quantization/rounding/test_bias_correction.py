"""Bias correction: the mean output is what it was."""

import torch
from torch import nn

from compresskit.quantization.calibration.layer_inputs import collect_inputs
from compresskit.quantization.layers.quantized_layer import to_matrix
from compresskit.quantization.rounding.bias_correction import correct_bias


def test_shift_by_hand():
    layer = nn.Linear(2, 1)
    moments = collect_inputs(nn.Sequential(layer), ["0"], [torch.tensor([[1.0, 2.0], [3.0, 4.0]])])["0"].moments
    before = layer.bias.item()
    # mean input (2, 3), weight change (0.5, -1): the output moves by 1 - 3
    weight = layer.weight.detach()
    shift = correct_bias(layer, weight + torch.tensor([[0.5, -1.0]]), weight, moments.mean(), moments.mean())
    assert abs(shift.item() + 2) < 1e-6
    assert abs(layer.bias.item() - (before + 2.0)) < 1e-6


def test_mean_output_of_a_grouped_convolution_is_restored():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, groups=2)
    inputs = torch.randn(3, 4, 6, 6) + 1
    wanted = layer(inputs).mean((0, 2, 3))
    moments = collect_inputs(nn.Sequential(layer), ["0"], [inputs])["0"].moments
    weight = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += torch.randn_like(weight) * 0.1
    assert (layer(inputs).mean((0, 2, 3)) - wanted).abs().max().item() > 0.01
    correct_bias(layer, to_matrix(layer.weight.detach(), 0), to_matrix(weight, 0), moments.mean(), moments.mean())
    torch.testing.assert_close(layer(inputs).mean((0, 2, 3)), wanted, rtol=1e-4, atol=1e-5)
