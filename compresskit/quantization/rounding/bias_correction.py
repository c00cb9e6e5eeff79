"""Bias correction: what rounding adds to a layer's mean output is taken out of its bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compresskit.core.tensors.modules import tensor_of


@torch.no_grad()
def correct_bias(layer: nn.Module, rounded: Tensor, weight: Tensor, mean: Tensor, float_mean: Tensor) -> Tensor:
    """Subtract from a layer's bias what its mean output gained by rounding, here and in the layers before.

    Args:
        layer: a layer with a bias.
        rounded: its weights as rounded, (rows, columns).
        weight: its float weights.
        mean: of the input rows behind the layers rounded before, (groups, columns).
        float_mean: of the input rows in the float model.
    Returns:
        what was subtracted, (rows,).
    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
        eq. 17 and appendix D (empirical correction: the means are measured on data, layer after layer).
    """
    shift = _mean_output(rounded, mean) - _mean_output(weight, float_mean)
    tensor_of(layer, "bias").sub_(shift)
    return shift


def _mean_output(matrix: Tensor, mean: Tensor) -> Tensor:
    split = matrix.double().reshape(mean.shape[0], -1, matrix.shape[1])
    return (split @ mean.double().unsqueeze(2)).reshape(-1)
