"""Second and first moments of what a layer multiplies its weights with, streamed over data.

A linear layer's weights meet its input rows; a convolution's meet the patches under its kernel (im2col columns). With
M = mean of x x^T, replacing weights W by W' costs the output a mean squared error of trace((W - W') M (W - W')^T):
rounding methods need nothing else of the data, so their memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compresskit.analysis.calibration.hooks import stream
from compresskit.core.tensors.dtypes import widened
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import Inputs

from ..formats.layers import Quantized, along_channels

#: rows taken from one batch at most; they are drawn by a seeded generator
_ROWS_PER_BATCH = 4096


@dataclass
class Moments:
    """Running sums over the rows x that a layer's weights met.

    Attributes:
        second: sum of x x^T, (weight groups, columns, columns) float64.
        first: sum of x, (weight groups, columns) float64.
        largest: largest |input| of each input channel, (in_channels,).
        magnitude: sum of each batch's mean |input| of each input channel, weighted by its rows, (in_channels,).
        count: rows summed.
    """

    second: Tensor
    first: Tensor
    largest: Tensor
    magnitude: Tensor
    count: int = 0

    def mean_second(self) -> Tensor:
        """Mean of x x^T, (weight groups, columns, columns)."""
        return self.second / max(self.count, 1)

    def mean_first(self) -> Tensor:
        """Mean of x, (weight groups, columns)."""
        return self.first / max(self.count, 1)

    def mean_magnitude(self) -> Tensor:
        """Mean |input| of each input channel, (in_channels,)."""
        return self.magnitude / max(self.count, 1)


def has_patches(layer: nn.Module) -> bool:
    """Whether the layer is one whose inputs `patches` can lay out."""
    return isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)


def patches(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What the rows of a layer's weight matrix are multiplied with.

    Args:
        layer: a linear layer or a convolution.
        inputs: its input.
    Returns:
        (weight groups, rows, columns); columns as in the layer's weight matrix.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, layer.in_features)
    spatial = len(layer.kernel_size)
    if inputs.dim() == spatial + 1:
        inputs = inputs.unsqueeze(0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    inputs = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (kernel, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ):
        inputs = inputs.unfold(2 + axis, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
    # (batch, channels, *positions, *kernel) -> (groups, batch * positions, channels / groups * kernel)
    batch, channels = inputs.shape[:2]
    positions, kernel_shape = inputs.shape[2 : 2 + spatial], inputs.shape[2 + spatial :]
    grouped = inputs.reshape(batch, layer.groups, channels // layer.groups, positions.numel(), kernel_shape.numel())
    return grouped.permute(1, 0, 3, 2, 4).reshape(layer.groups, batch * positions.numel(), -1)


def collect(root: nn.Module, names: Iterable[str], batches: Iterable[Inputs], seed: int = 0) -> dict[str, Moments]:
    """Moments of each named layer's inputs, in one pass over the data.

    Args:
        root: the model.
        names: layers for which `has_patches` holds.
        batches: batches of inputs.
        seed: decides which rows of a large batch count.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Moments] = {}

    def watcher_of(name: str):
        def watcher(layer: nn.Module, inputs: tuple, _output: object) -> None:
            _add(found, name, layer, inputs[0].detach(), generator)

        return watcher

    stream(root, batches, {name: watcher_of(name) for name in names})
    return found


def _add(found: dict[str, Moments], name: str, layer: nn.Module, inputs: Tensor, generator: torch.Generator) -> None:
    inputs = widened(inputs)
    if isinstance(layer, Quantized) and layer.spec.input_multiplier:
        inputs = inputs * along_channels(layer.input_multiplier, layer)
    channel_axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
    channels = inputs.abs().movedim(channel_axis, 0).flatten(1)
    rows = patches(layer, inputs)
    if rows.shape[1] > _ROWS_PER_BATCH:
        chosen = torch.randint(rows.shape[1], (_ROWS_PER_BATCH,), generator=generator)
        rows = rows[:, chosen.to(rows.device)]
    count = rows.shape[1]
    new = Moments(
        second=(rows.mT @ rows).double(),
        first=rows.sum(1).double(),
        largest=channels.amax(1),
        magnitude=channels.mean(1).double() * count,
        count=count,
    )
    found[name] = _combine(found[name], new) if name in found else new


def _combine(one: Moments, other: Moments) -> Moments:
    return Moments(
        second=one.second + other.second,
        first=one.first + other.first,
        largest=torch.maximum(one.largest, other.largest),
        magnitude=one.magnitude + other.magnitude,
        count=one.count + other.count,
    )


def output_error(delta: Tensor, second: Tensor) -> Tensor:
    """Mean squared output error, summed over outputs, of changing a weight matrix.

    Args:
        delta: the change, (rows, columns).
        second: mean of x x^T, (weight groups, columns, columns).
    Returns:
        a scalar tensor.
    """
    split = delta.reshape(second.shape[0], -1, delta.shape[1])
    return ((split @ second.to(delta.dtype)) * split).sum()


def layers_with_patches(root: nn.Module, names: Iterable[str]) -> list[str]:
    """The named layers whose inputs `patches` can lay out."""
    return [name for name in names if has_patches(get_module(root, name))]
