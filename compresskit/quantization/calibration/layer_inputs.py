"""What layers' weights meet on calibration data: moments of their input rows, and sizes of their input channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ...analysis.calibration.channels import ChannelMagnitudes
from ...analysis.calibration.collect import collect
from ...analysis.calibration.moments import InputMoments, MomentSums, Precision
from ...analysis.calibration.positions import Sampler, drawn_per_batch
from ...analysis.calibration.routed import RoutedMoments
from ...core.tensors.dtypes import widened
from ...core.tensors.modules import get_module, tensor_of
from ...core.types import Inputs
from ...model.libraries.experts import is_experts
from ..layers.quantized_layer import Quantized, along_channels

#: rows taken from one batch at most; they are drawn by a seeded generator
_ROWS_PER_BATCH = 4096
#: second moments held at a time where layers are looked at one after the other
_MOMENTS_BYTES = 512 << 20
#: columns of an expert from which on its moments are float32
_WIDEST_EXPERT = 2048


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


class InputsInTurn:
    """Statistics of layers that are asked for one after the other: those of a few layers are in memory at a time.

    Each time that a layer is asked for whose statistics are not there, one pass over the data takes those of this layer
    and of as many after it as fit into memory.

    Args:
        root: the model, which must be as it was whenever data runs through it.
        names: `roundable` layers, in the order in which they are asked for.
        batches: batches of inputs, re-iterable.
        seed: decides which rows of a large batch count.
        most_bytes: of second moments held at a time.
    """

    def __init__(
        self, root: nn.Module, names: Sequence[str], batches: Iterable[Inputs], seed: int = 0,
        most_bytes: int = _MOMENTS_BYTES,
    ):  # fmt: skip
        self._root, self._names, self._batches, self._seed = root, list(names), batches, seed
        self._most_bytes = most_bytes
        self._held: dict[str, LayerInputs] = {}
        self._reached: set[str] = set()  # what was looked for, whether the data reaches it or not

    def get(self, name: str) -> LayerInputs | None:
        """A layer's statistics; None where it has none."""
        if name not in self._names:
            return None
        if name not in self._reached:
            run = self._run_from(self._names.index(name))
            self._held.clear()
            self._held, self._reached = collect_inputs(self._root, run, self._batches, self._seed), set(run)
        return self._held.get(name)

    def clear(self) -> None:
        """Let go of what is in memory."""
        self._held.clear()
        self._reached.clear()

    def _run_from(self, first: int) -> list[str]:
        run: list[str] = []
        size_bytes = 0
        for name in self._names[first:]:
            layer = get_module(self._root, name)
            columns = tensor_of(layer)[0].numel()
            size_bytes += getattr(layer, "groups", 1) * columns**2 * 8
            if run and size_bytes > self._most_bytes:
                break
            run.append(name)
        return run


def sampler(seed: int) -> Sampler:
    """Draws the rows of a batch that count."""
    return drawn_per_batch(_ROWS_PER_BATCH, torch.Generator().manual_seed(seed))


def roundable(root: nn.Module, names: Iterable[str]) -> list[str]:
    """The named layers whose rounding can follow their inputs: linear layers and convolutions."""
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    return [name for name in names if isinstance(get_module(root, name), kinds)]


def holding_experts(root: nn.Module, names: Iterable[str]) -> list[str]:
    """The named layers that are experts, whose rounding can follow the tokens that are routed to each."""
    return [name for name in names if is_experts(get_module(root, name))]


def routed_moments(seed: int) -> RoutedMoments:
    """Moments of experts' inputs from at most `_ROWS_PER_BATCH` tokens a batch and expert, drawn by a seed."""
    return RoutedMoments(sampler(seed), Precision(widest=_WIDEST_EXPERT))


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
