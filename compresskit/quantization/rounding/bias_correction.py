"""Bias correction: what rounding adds to a layer's mean output is taken out of its bias."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compresskit.core.tensors.modules import tensor_of

from ...analysis.calibration.moments import MomentSums


@torch.no_grad()
def correct_bias(layer: nn.Module, delta: Tensor, moments: MomentSums) -> Tensor:
    """Subtract the expected output shift of a weight change from a layer's bias.

    Args:
        layer: a layer with a bias.
        delta: rounded minus float weights, (rows, columns).
        moments: of the layer's inputs.
    Returns:
        what was subtracted, (rows,).
    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
        eq. 17, with the mean input measured on data.
    """
    mean = moments.mean().to(delta.dtype)
    split = delta.reshape(mean.shape[0], -1, delta.shape[1])
    shift = (split @ mean.unsqueeze(2)).reshape(-1)
    tensor_of(layer, "bias").sub_(shift)
    return shift
