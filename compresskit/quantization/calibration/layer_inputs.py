"""What layers' weights meet on calibration data: moments of their input rows, and sizes of their input channels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...analysis.calibration.channels import ChannelMagnitudes
from ...analysis.calibration.collect import collect
from ...analysis.calibration.moments import InputMoments, MomentSums
from ...analysis.calibration.positions import Sampler, drawn_per_batch
from ...core.tensors.dtypes import widened
from ...core.tensors.modules import get_module
from ...core.types import Inputs
from ..formats.layers import Quantized, along_channels

#: rows taken from one batch at most; they are drawn by a seeded generator
_ROWS_PER_BATCH = 4096


class LayerInputs:
    """Statistics of one layer's inputs, as they are when its weights meet them: behind the input multiplier.

    Attributes:
        moments: of the input rows, float64.
        channels: largest and mean size of each input channel.
    """

    def __init__(self, sample: Sampler):
        self._rows = InputMoments(sample)
        self.channels = ChannelMagnitudes()

    @classmethod
    def of_seed(cls, seed: int) -> LayerInputs:
        """Statistics from at most `_ROWS_PER_BATCH` rows a batch, drawn by a seed."""
        return cls(sampler(seed))

    @property
    def moments(self) -> MomentSums:
        return self._rows.sums

    def update(self, layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        """Take in one call of the layer."""
        inputs = widened(inputs)
        if isinstance(layer, Quantized) and layer.spec.input_multiplier:
            inputs = inputs * along_channels(layer.input_multiplier, layer)
        before = self.moments.count
        self._rows.update(layer, inputs, output)
        self.channels.update(layer, inputs, self.moments.count - before)


def sampler(seed: int) -> Sampler:
    """Draws the rows of a batch that count."""
    return drawn_per_batch(_ROWS_PER_BATCH, torch.Generator().manual_seed(seed))


def roundable(root: nn.Module, names: Iterable[str]) -> list[str]:
    """The named layers whose rounding can follow their inputs: linear layers and convolutions."""
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    return [name for name in names if isinstance(get_module(root, name), kinds)]


def collect_inputs(
    root: nn.Module, names: Iterable[str], batches: Iterable[Inputs], seed: int = 0
) -> dict[str, LayerInputs]:
    """Statistics of each named layer's inputs, in one pass over the data.

    Args:
        root: the model.
        names: `roundable` layers.
        batches: batches of inputs.
        seed: decides which rows of a large batch count.
    """
    return collect(root, {name: LayerInputs.of_seed(seed) for name in names}, batches)
