"""What a quantized model is timed against."""

import pytest
import torch
from torch import nn

from compresskit.export.float_reference import float_twin
from compresskit.quantization.layers.quantized_layer import along_channels, quantized_layers

pytestmark = pytest.mark.integration


def test_factors_of_smoothing_go_into_the_weights(run):
    model = run(scheme="int8-static", smooth=0.5, first_last="same").loaded.module
    layers, twin = quantized_layers(model), float_twin(model)
    scaled = {name: layer for name, layer in layers.items() if layer.spec.input_multiplier}
    assert {layer.float_class for layer in scaled.values()} == {nn.Conv2d, nn.Linear}
    assert not quantized_layers(twin) and not any("multiplier" in name for name, _ in twin.named_buffers())
    for name, layer in scaled.items():
        inputs = torch.randn(2, layer.weight.shape[1] * getattr(layer, "groups", 1), *[4] * (layer.weight.dim() - 2))
        wanted = layer._float_forward(inputs * along_channels(layer.input_multiplier, layer))
        torch.testing.assert_close(twin.get_submodule(name)(inputs), wanted, atol=1e-5, rtol=1e-4)


def test_only_the_named_layers_compute_in_float(run):
    model = run(scheme="int8-static").loaded.module
    names = list(quantized_layers(model))
    assert list(quantized_layers(float_twin(model, names[:1]))) == names[1:]
