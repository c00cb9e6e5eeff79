"""`builtin:chain`: a network that is described by data, so that a search can write down what it found.

A description is a list of layers in order: `{op: conv, out: 16, kernel: 3}` is a convolution with BatchNorm and ReLU,
`{op: separable, out: 16, kernel: 3}` a depthwise and a pointwise one (each with BatchNorm and ReLU), `{op: pool}`
halves both sides. Global average pooling and a linear classifier end every chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.costs import MACS, PARAMS
from ..core.errors import InputError, nearest

#: one layer: {op, out, kernel}
Layer = Mapping[str, Any]
OPERATIONS = ("conv", "separable", "pool")
_EXAMPLE = ({"op": "conv", "out": 16, "kernel": 3}, {"op": "pool"}, {"op": "conv", "out": 32, "kernel": 3})
_LARGEST = 4096  # channels; a description is data from outside


class ConvUnit(nn.Module):
    """Convolution that keeps the sides, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class SeparableUnit(nn.Module):
    """Depthwise convolution, BatchNorm, ReLU, then a pointwise ConvUnit."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, kernel, padding=kernel // 2, groups=in_channels, bias=False
        )
        self.depthwise_norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depthwise_norm(self.depthwise(x)))
        return F.relu(self.norm(self.conv(x)))


class Chain(nn.Module):
    """The network of a description; see `chain`."""

    def __init__(self, layers: Sequence[Layer], input_shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        units: list[nn.Module] = []
        channels = input_shape[0]
        for layer in layers:
            if layer["op"] == "pool":
                units.append(nn.MaxPool2d(2))
                continue
            unit = SeparableUnit if layer["op"] == "separable" else ConvUnit
            units.append(unit(channels, layer["out"], layer["kernel"]))
            channels = layer["out"]
        self.layers = nn.Sequential(*units)
        self.classifier = nn.Linear(channels, num_classes)
        self.input_shape = input_shape
        self.mean: tuple[float, ...] = ()
        self.std: tuple[float, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.layers(x).mean((2, 3)))


def chain(
    layers: Sequence[Layer] = _EXAMPLE,
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> Chain:
    """A network from its description.

    Args:
        layers: {op: conv | separable, out: channels, kernel: odd side} or {op: pool}, in order.
        input_shape: (channels, height, width).
        num_classes: size of the output.
        mean, std: normalization that the inputs get, a value for each channel.
    Raises:
        InputError: naming the layer that is wrong and why.
    """
    shape = tuple(int(size) for size in input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"chain: input_shape must be channels, height, width, got {list(input_shape)}")
    net = Chain(checked(layers, shape), shape, num_classes)
    net.mean, net.std = tuple(float(value) for value in mean), tuple(float(value) for value in std)
    return net


def checked(layers: Sequence[Layer], input_shape: Sequence[int]) -> list[dict[str, Any]]:
    """The layers of a description as plain data, every one of them sound.

    Raises:
        InputError: naming the layer and the mend.
    """
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        raise InputError(f"chain: layers must be a list such as [{{op: conv, out: 16, kernel: 3}}], got {layers!r}")
    sides = list(input_shape[1:])
    plain = []
    for number, layer in enumerate(layers):
        where = f"chain: layer {number}"
        if not isinstance(layer, Mapping) or "op" not in layer:
            raise InputError(f"{where} must be a mapping with op, e.g. {{op: conv, out: 16, kernel: 3}}, got {layer!r}")
        if layer["op"] not in OPERATIONS:
            raise InputError(f"{where}: unknown op {layer['op']!r}{nearest(str(layer['op']), OPERATIONS)}")
        wanted = {"op"} if layer["op"] == "pool" else {"op", "out", "kernel"}
        if set(layer) != wanted:
            raise InputError(
                f"{where}: {layer['op']} takes {', '.join(sorted(wanted))}, got {', '.join(map(str, layer))}"
            )
        if layer["op"] == "pool":
            sides = [side // 2 for side in sides]
            if min(sides) < 1:
                raise InputError(f"{where}: nothing is left to pool; leave one pool out")
        elif not (_whole(layer["out"], _LARGEST) and _whole(layer["kernel"], 99) and layer["kernel"] % 2):
            raise InputError(f"{where}: out must be 1 to {_LARGEST} and kernel odd, got {dict(layer)}")
        plain.append(dict(layer))
    return plain


def _whole(value: Any, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest


def chain_costs(layers: Sequence[Layer], input_shape: Sequence[int], num_classes: int) -> dict[str, float]:
    """Multiply-accumulates of one forward at batch size 1, and parameters, from the description alone."""
    channels, height, width = input_shape
    macs, params = 0, 0
    for layer in layers:
        if layer["op"] == "pool":
            height, width = height // 2, width // 2
            continue
        out, kernel = layer["out"], layer["kernel"]
        weights, norms = channels * out * kernel**2, 2 * out
        if layer["op"] == "separable":
            weights, norms = channels * kernel**2 + channels * out, 2 * (channels + out)
        macs += weights * height * width
        params += weights + norms
        channels = out
    return {MACS: float(macs + channels * num_classes), PARAMS: float(params + (channels + 1) * num_classes)}


def scaled(layers: Sequence[Layer], factor: float) -> list[dict[str, Any]]:
    """The same description with every width times a factor, at least 1."""
    return [
        {**layer, "out": max(1, round(layer["out"] * factor))} if "out" in layer else dict(layer) for layer in layers
    ]
