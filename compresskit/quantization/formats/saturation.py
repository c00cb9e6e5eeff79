"""Which int8 weights x86 kernels without VNNI can multiply: they add two products at a time in 16 bits.

An instruction (vpmaddubsw) multiplies unsigned bytes of activations with signed bytes of weights and adds the products
of two neighbouring input channels in 16 bits, where what is beyond 32767 is cut off. 255 times the sum of two weights
of one sign fits as long as that sum is at most 128. Depthwise convolutions have no neighbours and are never cut off.
Weights of 7 bits always fit; of 8 bits those do whose scale is wide enough for the largest sum of their row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LARGEST_SUM = 127  # each weight is rounded by half a step at most, so that the sum of two codes is 128 at most


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each output of a convolution reads one channel."""
    return isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.in_channels == layer.groups > 1


def pair_distance(layer: nn.Module) -> int | None:
    """How far apart the weights of neighbouring input channels lie in a row of the layer's matrix.

    None where kernels may pair others: an odd number of channels, transposed convolutions, layers of other kinds.
    """
    if isinstance(layer, nn.Linear):
        return 1 if layer.in_features % 2 == 0 else None
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and (layer.in_channels // layer.groups) % 4 == 0:
        return int(torch.Size(layer.kernel_size).numel())
    return None


def smallest_scale(matrix: Tensor, distance: int) -> Tensor:
    """The scale of each row from which on no two neighbouring weights of 8 bits saturate.

    Args:
        matrix: (rows, channels * distance), the weights of a channel side by side.
        distance: between neighbouring channels, as `pair_distance` has it.
    Returns:
        (rows, 1).
    """
    pairs = matrix.reshape(matrix.shape[0], -1, 2, distance)
    sums = torch.maximum(pairs.clamp(min=0).sum(2), pairs.clamp(max=0).sum(2).neg())
    return sums.flatten(1).amax(1, keepdim=True) / _LARGEST_SUM
