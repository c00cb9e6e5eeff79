"""Layers as plain numbers: shapes, parameters and MACs of a layer or of a chain, without building anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ...core.errors import InputError
from ...core.tensors.modules import tensor_of, unfilled
from .tt_linear import FoldedLinear

_CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}

#: what a layer can be; "linear-in-out" is the transformers library's Conv1D, a linear layer with a transposed weight,
#: and "folded" a link of a tensor-train chain
FORMS = ("linear", "linear-in-out", "embedding", "conv", "conv-transpose", "folded")

#: per axis sizes, or the strings "same" and "valid" that PyTorch takes for padding
Padding = tuple[int, ...] | str


@dataclass(frozen=True)
class Geometry:
    """The shape of one plain layer: linear, convolution or transposed convolution in 1 to 3 dimensions, embedding.

    Attributes:
        form: one of FORMS.
        in_channels: input features or channels; for an embedding the number of rows.
        out_channels: output features or channels.
        kernel: kernel sizes, one an axis; () for linear layers and embeddings.
        padding_index: the embedding row whose output is fixed at zero.
        output_padding: of a transposed convolution.
        repeats: of a folded layer, how many pieces of its input it is applied to.
        outer: of a folded layer, how many of its outputs move in front of the pieces.
    """

    form: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: Padding = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding_mode: str = "zeros"
    bias: bool = False
    padding_index: int | None = None
    output_padding: tuple[int, ...] = ()
    repeats: int = 1
    outer: int = 1

    @property
    def taps(self) -> int:
        """Kernel positions: 9 for a 3x3 convolution, 1 for a linear layer."""
        return prod(self.kernel)

    @property
    def columns(self) -> int:
        """How many inputs one output meets: the length of a row of the weight as a matrix."""
        return self.in_channels // self.groups * self.taps

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The weight as the layer holds it; `held` makes it from (out, in / groups, *kernel)."""
        if self.form in ("embedding", "linear-in-out"):
            return (self.in_channels, self.out_channels)
        if self.form == "conv-transpose":
            return (self.in_channels, self.out_channels // self.groups, *self.kernel)
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def params(self) -> int:
        return prod(self.weight_shape) + (self.out_channels * self.repeats if self.bias else 0)

    def one_group(self) -> Geometry:
        """The layer that each of the groups is by itself."""
        return replace(
            self, in_channels=self.in_channels // self.groups, out_channels=self.out_channels // self.groups, groups=1
        )

    def times(self, groups: int) -> Geometry:
        """`groups` such layers side by side, as one grouped layer."""
        if groups == 1:
            return self
        return replace(
            self,
            in_channels=self.in_channels * groups,
            out_channels=self.out_channels * groups,
            groups=self.groups * groups,
        )

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial output size for a spatial input size, both one number an axis."""
        if not self.kernel or self.padding == "same":
            return size
        padding = (0,) * len(self.kernel) if isinstance(self.padding, str) else self.padding
        axes = list(zip(size, self.kernel, self.stride, padding, self.dilation, strict=True))
        if self.form == "conv-transpose":
            sizes = ((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in axes)
            return tuple(n + extra for n, extra in zip(sizes, self.output_padding, strict=True))
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)


@dataclass(frozen=True)
class Call:
    """One call of a layer during a forward pass of the example.

    Attributes:
        positions: how often the layer is applied: batch times tokens for linear, batch for convolutions.
        size: spatial input size; () for linear layers and embeddings.
    """

    positions: int
    size: tuple[int, ...] = ()


def chain_params(chain: list[Geometry]) -> int:
    """Parameters of a chain of layers, biases included."""
    return sum(link.params for link in chain)


def chain_macs(chain: list[Geometry], call: Call) -> int:
    """Multiply-accumulate operations of a chain for one call; biases and table look-ups cost none."""
    size, macs = call.size, 0
    for link in chain:
        arriving, size = size, link.output_size(size)
        if link.form != "embedding":
            # every input position of a transposed convolution meets every tap
            places = arriving if link.form == "conv-transpose" else size
            macs += call.positions * prod(places) * prod(link.weight_shape) * link.repeats
    return macs


def chain_outputs(chain: list[Geometry], call: Call) -> int:
    """Elements that the multiplying layers of a chain put out in one call."""
    size, elements = call.size, 0
    for link in chain:
        size = link.output_size(size)
        if link.form != "embedding":
            elements += call.positions * prod(size) * link.out_channels * link.repeats
    return elements


def geometry_of(layer: nn.Module) -> Geometry | None:
    """The geometry of a plain layer, taken from its tensors; None if the layer is of no plain kind.

    Only exact types count: a subclass may compute something else in its forward.
    """
    kind = type(layer)
    if isinstance(layer, nn.Linear) and kind is nn.Linear:
        out_features, in_features = layer.weight.shape
        return Geometry("linear", in_features, out_features, bias=layer.bias is not None)
    if isinstance(layer, nn.Embedding) and kind is nn.Embedding:
        rows, width = layer.weight.shape
        return Geometry("embedding", rows, width, padding_index=layer.padding_idx)
    if isinstance(layer, _ConvNd) and kind in _CONVS.values():
        out_channels, in_channels_a_group, *kernel = layer.weight.shape
        return Geometry(
            "conv", in_channels_a_group * layer.groups, out_channels, tuple(kernel), tuple(layer.stride),
            layer.padding if isinstance(layer.padding, str) else tuple(layer.padding), tuple(layer.dilation),
            layer.groups, layer.padding_mode, layer.bias is not None,
        )  # fmt: skip
    if isinstance(layer, _ConvTransposeNd) and kind in _TRANSPOSED.values():
        in_channels, out_channels_a_group, *kernel = layer.weight.shape
        return Geometry(
            "conv-transpose", in_channels, out_channels_a_group * layer.groups, tuple(kernel), tuple(layer.stride),
            () if isinstance(layer.padding, str) else tuple(layer.padding), tuple(layer.dilation), layer.groups,
            layer.padding_mode, layer.bias is not None,
            output_padding=tuple(layer.output_padding),
        )  # fmt: skip
    if (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D"):
        in_features, out_features = tensor_of(layer).shape
        return Geometry("linear-in-out", in_features, out_features, bias=True)
    if isinstance(layer, FoldedLinear) and kind is FoldedLinear and type(layer.linear) is nn.Linear:
        out_features, in_features = layer.weight.shape
        return Geometry(
            "folded", in_features, out_features, bias=layer.bias is not None, repeats=layer.repeats, outer=layer.outer
        )
    return None


def build(geometry: Geometry, like: Tensor) -> nn.Module:
    """An uninitialized layer of a geometry, with the device and number type of a tensor; linear-in-out as linear."""
    place: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    g = geometry
    if g.form in ("linear", "linear-in-out"):
        return unfilled(nn.Linear, g.in_channels, g.out_channels, g.bias, **place)
    if g.form == "embedding":
        layer = nn.Embedding(1, 1, device="meta", dtype=like.dtype)
        layer.num_embeddings, layer.embedding_dim, layer.padding_idx = g.in_channels, g.out_channels, g.padding_index
        layer.weight = nn.Parameter(torch.empty(g.weight_shape, **place))
        return layer
    if g.form == "folded":
        return FoldedLinear(g.in_channels, g.out_channels, g.repeats, g.outer, bias=g.bias, **place)
    if g.form == "conv-transpose":
        return unfilled(
            _TRANSPOSED[len(g.kernel)], g.in_channels, g.out_channels, g.kernel, g.stride, g.padding, g.output_padding,
            g.groups, g.bias, g.dilation, g.padding_mode, **place,
        )  # fmt: skip
    return unfilled(
        _CONVS[len(g.kernel)], g.in_channels, g.out_channels, g.kernel, g.stride, g.padding, g.dilation, g.groups,
        g.bias, g.padding_mode, **place,
    )  # fmt: skip


def record_of(geometry: Geometry) -> dict[str, Any]:
    """A geometry as a JSON-able record; fields at their defaults are left out."""
    fields = Geometry.__dataclass_fields__
    record = {name: getattr(geometry, name) for name in fields}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in record.items()
        if value != fields[name].default
    }


def from_record(record: dict[str, Any]) -> Geometry:
    """The geometry of a record.

    Raises:
        InputError: if a field is unknown or of the wrong type.
    """
    fields = Geometry.__dataclass_fields__
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    if not set(values) <= set(fields) or not {"form", "in_channels", "out_channels"} <= set(values):
        raise InputError(f"a layer record has the fields {', '.join(fields)}, got {', '.join(record)}")
    if values["form"] not in FORMS:
        raise InputError(f"a layer's form is one of {', '.join(FORMS)}, got {values['form']!r}")
    return Geometry(**values)
