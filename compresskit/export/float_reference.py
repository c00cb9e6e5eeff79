"""What a quantized model is timed against: the same layers in float."""

from __future__ import annotations

import torch
from torch import nn

from ..core.tensors.copying import copy_module
from ..quantization.formats.conversion import become
from ..quantization.formats.layers import quantized_layers


@torch.no_grad()
def float_twin(root: nn.Module) -> nn.Module:
    """A copy that computes in float with the rounded weights, and quantizes no activation: what to time against."""
    twin = copy_module(root)
    for layer in quantized_layers(twin).values():
        weights = {name: layer.dequantized(name).detach().clone() for name in layer.spec.parameters}
        become(layer, layer.float_class)
        for name, weight in weights.items():
            layer.register_parameter(name, nn.Parameter(weight))
        if isinstance(layer, nn.RNNBase):
            layer._init_flat_weights()
    return twin
