"""What a quantized model is timed against: the same layers in float."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from ..core.tensors.copying import copy_module
from ..quantization.layers.conversion import become
from ..quantization.layers.quantized_layer import Quantized, quantized_layers

#: what a layer keeps to quantize its input, output or products
_ACTIVATION_PARTS = (
    "input_multiplier",
    *(f"{site}_{part}" for site in ("input", "output", "operand") for part in ("scale", "zero_point")),
)


@torch.no_grad()
def float_twin(root: nn.Module, names: Collection[str] | None = None) -> nn.Module:
    """A copy that computes in float with the rounded weights, and quantizes no activation: what to time against.

    Args:
        root: a quantized model.
        names: the layers that compute in float; None stands for all.
    """
    twin = copy_module(root)
    for name, layer in quantized_layers(twin).items():
        if names is not None and name not in names:
            continue
        weights = {own: layer.dequantized(own).detach().clone() for own in layer.spec.parameters}
        if layer.spec.input_multiplier:
            weights["weight"] = _multiplied(layer, weights["weight"])
        parts = [
            f"{own}_{part}"
            for own in layer.spec.parameters
            for part in layer.number_format.stored(layer.parameter_shapes[own], layer.spec)
        ]
        become(layer, layer.float_class)
        for part in (*parts, *_ACTIVATION_PARTS):
            layer._buffers.pop(part, None)
            layer._parameters.pop(part, None)
        for own, weight in weights.items():
            layer.register_parameter(own, nn.Parameter(weight))
        if isinstance(layer, nn.RNNBase):
            layer._init_flat_weights()
    return twin


def _multiplied(layer: Quantized, weight: Tensor) -> Tensor:
    """A weight that takes in what the layer multiplied its input's channels with."""
    if layer.spec.axis == 1:  # (in, out, ...)
        return weight * layer.input_multiplier.reshape(-1, *[1] * (weight.dim() - 1))
    groups = getattr(layer, "groups", 1)
    rows = layer.input_multiplier.reshape(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    return weight * rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))
