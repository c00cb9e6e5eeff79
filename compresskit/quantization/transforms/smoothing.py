"""Scaling input channels before quantizing: SmoothQuant and activation-aware weight quantization (AWQ)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compresskit.core.tensors.dtypes import in_float32
from compresskit.core.tensors.modules import tensor_of

from ...analysis.calibration.moments import output_error
from ..calibration.layer_inputs import LayerInputs
from ..formats.uniform import Grid
from ..layers.conversion import convert
from ..layers.layer_spec import Spec
from ..layers.quantized_layer import to_matrix
from .equalization import input_channel_ranges, scale_input_channels

_EXPONENTS = 20


def smoothing_factors(activations: Tensor, weights: Tensor, strength: float) -> Tensor:
    """How much each input channel is divided by: max|X|^strength / max|W|^(1 - strength).

    Args:
        activations: largest |input| of each channel, (channels,).
        weights: largest |weight| that meets each channel, (channels,).
        strength: 0 leaves all range to the activations, 1 moves all of it to the weights.
    Returns:
        (channels,); 1 where a channel is never used.
    Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
        ICML 2023, eq. 4.
    """
    usable = (activations > 0) & (weights > 0)
    factors = activations.clamp(min=1e-20).pow(strength) / weights.clamp(min=1e-20).pow(1 - strength)
    return torch.where(usable, factors, torch.ones_like(factors))


@in_float32
@torch.no_grad()
def search_factors(layer: nn.Module, inputs: LayerInputs, make_grid: Callable[[Tensor], Grid], axis: int = 0) -> Tensor:
    """Channel factors s = (mean |x|)^a with the a in [0, 1] of least output error after rounding.

    The weights are multiplied by s and the input divided by it, so what rounding does to W s is divided by s again.

    Args:
        layer: a linear layer or convolution.
        inputs: statistics of its inputs.
        make_grid: gives the grid for a weight matrix.
        axis: the weight's output dimension.
    Returns:
        (in_channels,).
    Source: Lin et al., "AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration",
        MLSys 2024, eq. 4 and 5.
    """
    magnitude = inputs.channels.mean().float().clamp(min=1e-8)
    weight = tensor_of(layer)
    matrix = to_matrix(weight.detach().clone(), axis)
    second = inputs.moments.second_moment()
    original = weight.detach().clone()
    best, best_error = torch.ones_like(magnitude), float("inf")
    for step in range(_EXPONENTS):
        factors = magnitude.pow(step / _EXPONENTS)
        factors = factors / (factors.max() * factors.min()).sqrt()
        scale_input_channels(layer, factors)
        scaled = to_matrix(weight.detach(), axis)
        grid = make_grid(scaled)
        weight.copy_(grid.values(grid.nearest(scaled)).reshape(original.shape))
        scale_input_channels(layer, 1 / factors)
        error = float(output_error(to_matrix(weight.detach(), axis) - matrix, second))
        weight.copy_(original)
        if error < best_error:
            best, best_error = factors, error
    return best


@in_float32
@torch.no_grad()
def move_to_weights(layer: nn.Module, factors: Tensor) -> Spec:
    """Divide a layer's input by the factors and multiply its weights by them; it computes the same.

    Returns:
        what the layer was converted to.
    """
    scale_input_channels(layer, factors)
    spec = Spec(input_multiplier=True)
    convert(layer, spec)
    tensor_of(layer, "input_multiplier").copy_(1 / factors)
    return spec


@in_float32
def smooth(layer: nn.Module, inputs: LayerInputs, strength: float) -> Spec:
    """Apply SmoothQuant to one layer."""
    factors = smoothing_factors(inputs.channels.largest, input_channel_ranges(layer), strength)
    return move_to_weights(layer, factors)
