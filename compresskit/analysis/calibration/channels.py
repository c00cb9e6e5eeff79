"""Statistics of the input channels of layers, summed batch by batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ...core.tensors.dtypes import widened


def channel_axis(layer: nn.Module, inputs: Tensor) -> int:
    """The dimension of a layer's input (or output) that counts its channels: the last one of a linear layer."""
    return inputs.dim() - 1 - len(getattr(layer, "kernel_size", ()))


def channel_rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """A layer's input (or output) as (samples, channels)."""
    moved = inputs.movedim(channel_axis(layer, inputs), -1)
    return moved.reshape(-1, moved.shape[-1])


#: what is averaged over a channel's elements: |x|, x, x^2, and whether x is zero
Average = Literal["magnitude", "value", "square", "zero"]


class ChannelSums:
    """Sums over all elements of each input channel, to which calls are added."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[Average, Tensor] = {}

    def update(self, layer: nn.Module, inputs: Tensor, _output: Tensor) -> None:
        """Take in one call of a linear layer or convolution."""
        rows = channel_rows(layer, widened(inputs))
        parts: dict[Average, Tensor] = {
            "magnitude": rows.abs(), "value": rows, "square": rows.square(), "zero": rows == 0
        }  # fmt: skip
        self._sums = {kind: self._sums.get(kind, 0) + part.sum(0).double().cpu() for kind, part in parts.items()}
        self.count += len(rows)

    def mean(self, kind: Average) -> Tensor:
        """An average of each channel, (channels,) float64."""
        return self._sums[kind] / self.count


class ChannelMagnitudes:
    """Largest and mean |x| of each input channel, (channels,).

    Attributes:
        largest: in the inputs' number type.
        magnitude: sum of each batch's mean, times its weight, float64.
        weight: sum of the weights.
    """

    largest: Tensor
    magnitude: Tensor

    def __init__(self) -> None:
        self.weight = 0

    def update(self, layer: nn.Module, inputs: Tensor, weight: int) -> None:
        """Take in one call of a layer, in the mean with a weight."""
        axis, sizes = channel_axis(layer, inputs), inputs.abs()
        others = [dim for dim in range(inputs.dim()) if dim != axis]
        largest = sizes.amax(others) if others else sizes
        magnitude = (sizes.mean(others) if others else sizes).double() * weight
        self.largest = torch.maximum(self.largest, largest) if self.weight else largest
        self.magnitude = self.magnitude + magnitude if self.weight else magnitude
        self.weight += weight

    def mean(self) -> Tensor:
        """Mean |x| of each channel, float64."""
        return self.magnitude / max(self.weight, 1)
