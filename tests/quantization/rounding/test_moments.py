"""Patches and moments against the layers themselves."""

import pytest
import torch
from torch import nn

from compresskit.quantization.formats.layer_spec import Spec
from compresskit.quantization.formats.layers import convert, to_matrix
from compresskit.quantization.rounding.moments import collect, layers_with_patches, output_error, patches

LAYERS = {
    "linear": (nn.Linear(4, 3), (2, 5, 4)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), padding=(2, 1), dilation=(2, 1)), (2, 4, 7, 6)),
    "same": (nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular"), (1, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 6, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2), (2, 2, 3, 4, 3)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_patches_times_weights_is_the_layer(kind):
    layer, shape = LAYERS[kind]
    torch.manual_seed(0)
    inputs = torch.randn(shape)
    rows = patches(layer, inputs)
    weights = to_matrix(layer.weight.detach(), 0).reshape(rows.shape[0], -1, rows.shape[2])
    product = rows @ weights.mT  # (groups, rows, out / groups)
    expected = layer(inputs).detach()
    if kind != "linear":
        expected = expected.movedim(1, -1)
    ours = product.permute(1, 0, 2).reshape(expected.shape) + layer.bias.detach()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_streamed_moments_are_the_means_over_all_rows():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    batches = [torch.randn(4, 3), torch.randn(7, 3)]
    moments = collect(nn.Sequential(layer), ["0"], batches)["0"]
    rows = torch.cat(batches).double()
    torch.testing.assert_close(moments.mean_second()[0], rows.T @ rows / 11, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.mean_first()[0], rows.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.largest, rows.abs().amax(0).float())
    torch.testing.assert_close(moments.mean_magnitude(), rows.abs().mean(0), rtol=1e-5, atol=1e-6)


def test_moments_see_the_scaled_input():
    layer = convert(nn.Linear(2, 2), Spec(input_multiplier=True))
    layer.input_multiplier.copy_(torch.tensor([0.5, 2.0]))
    moments = collect(nn.Sequential(layer), ["0"], [torch.tensor([[2.0, 1.0]])])["0"]
    assert moments.mean_first().tolist() == [[1.0, 2.0]]


def test_output_error_is_the_measured_one():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, groups=2, bias=False)
    inputs = torch.randn(2, 4, 6, 6)
    moments = collect(nn.Sequential(layer), ["0"], [inputs])["0"]
    delta = torch.randn_like(layer.weight) * 0.1
    measured = torch.nn.functional.conv2d(inputs, delta, groups=2).square().sum(1).mean()
    predicted = output_error(to_matrix(delta, 0), moments.mean_second())
    torch.testing.assert_close(predicted, measured, rtol=1e-4, atol=1e-6)


def test_layers_without_patches_are_left_out():
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2), nn.ConvTranspose1d(2, 2, 1))
    assert layers_with_patches(model, ["0", "1", "2"]) == ["1"]
