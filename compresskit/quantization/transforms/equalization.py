"""Cross-layer equalization: channels of neighbouring layers share their range fairly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from compresskit.core.tensors.dtypes import in_float32
from compresskit.core.tensors.modules import bias_of, get_module, tensor_of

from ...analysis.dataflow import Key, Trace, shared_parameters
from ..layers.quantized_layer import Quantized

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: operations f with f(s x) = s f(x) for s > 0 that keep channels where they are
_HOMOGENEOUS = (
    "relu", "relu_", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "mean", "dropout", "leaky_relu",
    "leaky_relu_", "native_dropout", "clone", "detach",
)  # fmt: skip
_ROUNDS = 20


class Pair(NamedTuple):
    """Two layers, the first's output read by the second alone, through positively homogeneous operations."""

    first: str
    second: str


def find_pairs(root: nn.Module, record: Trace) -> list[Pair]:
    """Pairs of layers that can be equalized, in order of execution."""
    shared = shared_parameters(root)
    modules = dict(root.named_modules())
    readers = {
        record.calls[name][0].inputs[0]: name
        for name in record.calls
        if _equalizable(modules[name], name, shared) and len(record.calls[name]) == 1 and record.calls[name][0].inputs
    }
    pairs = []
    for name in record.calls:
        if not _equalizable(modules[name], name, shared):
            continue
        output = record.single_output(name)
        reader = _only_reader(output, record, readers) if output is not None else None
        if reader is not None and _channels_match(modules[name], modules[reader]):
            pairs.append(Pair(name, reader))
    return pairs


def _equalizable(layer: nn.Module, name: str, shared: set[str]) -> bool:
    own = not isinstance(layer, Quantized) and f"{name}.weight" not in shared and f"{name}.bias" not in shared
    return own and isinstance(layer, _LAYERS) and "weight" in layer._parameters


def _only_reader(key: Key, record: Trace, readers: dict[Key, str]) -> str | None:
    """Follow a tensor through homogeneous operations to the one layer that reads it."""
    while True:
        if key in record.outputs:
            return None
        nodes = record.consumers.get(key, [])
        if key in readers:
            inside = all(node.module == readers[key] for node in nodes)
            return readers[key] if inside else None
        if len(nodes) != 1 or nodes[0].op not in _HOMOGENEOUS:
            return None
        key = nodes[0].outputs[0]


def _channels_match(first: nn.Module, second: nn.Module) -> bool:
    return tensor_of(first).shape[0] == input_channel_ranges(second).numel()


def _by_input_channel(layer: nn.Module) -> Tensor:
    """A layer's weights as (groups, out / groups, in / groups, kernel)."""
    weight = tensor_of(layer).detach()
    groups = getattr(layer, "groups", 1)
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def input_channel_ranges(layer: nn.Module) -> Tensor:
    """Largest |weight| that meets each input channel, (in_channels,)."""
    return _by_input_channel(layer).abs().amax((1, 3)).reshape(-1)


def scale_input_channels(layer: nn.Module, factors: Tensor) -> None:
    """Multiply the weights that meet each input channel by that channel's factor."""
    split = _by_input_channel(layer)
    scaled = split * factors.reshape(split.shape[0], 1, split.shape[2], 1)
    weight = tensor_of(layer)
    weight.data.copy_(scaled.reshape(weight.shape))


@torch.no_grad()
def equalize_pair(first: nn.Module, second: nn.Module) -> Tensor:
    """Give both layers of a pair the same range in every channel; their joint function stays as it is.

    With r1 and r2 the ranges of a channel in the first layer's rows and the second's columns, the first is divided
    and the second multiplied by s = sqrt(r1 r2) / r2.

    Returns:
        s, (channels,).
    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
        section 4.1.
    """
    weight, bias = tensor_of(first), bias_of(first)
    first_ranges = weight.abs().flatten(1).amax(1)
    second_ranges = input_channel_ranges(second)
    usable = (first_ranges > 0) & (second_ranges > 0)
    factors = torch.where(usable, (first_ranges / second_ranges.clamp(min=1e-30)).sqrt(), torch.ones_like(first_ranges))
    weight /= factors.reshape(-1, *[1] * (weight.dim() - 1))
    if bias is not None:
        bias /= factors
    scale_input_channels(second, factors)
    return factors


@in_float32
def equalize(root: nn.Module, record: Trace) -> list[Pair]:
    """Equalize all pairs of a model, in rounds until nothing moves.

    Returns:
        the pairs.
    """
    pairs = find_pairs(root, record)
    for _ in range(_ROUNDS):
        largest_move = 0.0
        for pair in pairs:
            factors = equalize_pair(get_module(root, pair.first), get_module(root, pair.second))
            largest_move = max(largest_move, float(factors.log().abs().max()))
        if largest_move < 1e-3:
            break
    return pairs
