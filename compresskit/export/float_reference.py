"""What a quantized model is timed against: the same layers in float."""

from __future__ import annotations

import torch
from torch import nn

from ..core.tensors.copying import copy_module
from ..quantization.formats.conversion import become
from ..quantization.formats.layers import quantized_layers

#: what a layer keeps to quantize its input, output or products
_ACTIVATION_PARTS = tuple(
    f"{site}_{part}" for site in ("input", "output", "operand") for part in ("scale", "zero_point")
)


@torch.no_grad()
def float_twin(root: nn.Module) -> nn.Module:
    """A copy that computes in float with the rounded weights, and quantizes no activation: what to time against."""
    twin = copy_module(root)
    for layer in quantized_layers(twin).values():
        weights = {name: layer.dequantized(name).detach().clone() for name in layer.spec.parameters}
        parts = [
            f"{name}_{part}"
            for name in layer.spec.parameters
            for part in layer.number_format.stored(layer.parameter_shapes[name], layer.spec)
        ]
        become(layer, layer.float_class)
        for part in (*parts, *_ACTIVATION_PARTS):
            layer._buffers.pop(part, None)
            layer._parameters.pop(part, None)
        for name, weight in weights.items():
            layer.register_parameter(name, nn.Parameter(weight))
        if isinstance(layer, nn.RNNBase):
            layer._init_flat_weights()
    return twin
