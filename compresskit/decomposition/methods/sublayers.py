"""The links that chains of convolutions and linear layers are made of."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from .geometry import Geometry

CONVS = ("conv", "conv-transpose")


def pointwise(layer: Geometry, in_channels: int, out_channels: int, *, last: bool = False) -> Geometry:
    """A linear layer or a plain 1x1 convolution that mixes channels only; the last of a chain has the layer's bias."""
    axes = len(layer.kernel)
    form = "conv" if layer.form in CONVS else "linear"
    return Geometry(
        form, in_channels, out_channels, (1,) * axes, (1,) * axes, (0,) * axes, (1,) * axes, bias=last and layer.bias
    )


def spatial(
    layer: Geometry, in_channels: int, out_channels: int, axes: tuple[int, ...] | None = None, **changes
) -> Geometry:
    """The layer's own kernel, stride and padding on some axes (default: all), nothing on the others."""

    def on(values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
        return tuple(value if axes is None or axis in axes else neutral for axis, value in enumerate(values))

    padding = layer.padding if isinstance(layer.padding, str) else on(layer.padding, 0)
    form = "linear" if layer.form == "linear-in-out" else layer.form
    changes = {"form": form, "bias": False, "output_padding": on(layer.output_padding, 0), **changes}
    return replace(
        layer, in_channels=in_channels, out_channels=out_channels, kernel=on(layer.kernel, 1),
        stride=on(layer.stride, 1), padding=padding, dilation=on(layer.dilation, 1), **changes,
    )  # fmt: skip


def long_axes(layer: Geometry) -> list[int]:
    """The axes on which the kernel is longer than 1."""
    return [axis for axis, taps in enumerate(layer.kernel) if taps > 1]


def is_conv(layer: Geometry) -> bool:
    """Whether a one-group layer is a convolution, plain or transposed, with a kernel and several channels."""
    return layer.form in CONVS and layer.taps > 1 and layer.in_channels > 1 and layer.out_channels > 1


def with_axes(matrix: Tensor, weight: Tensor) -> Tensor:
    """A matrix with as many axes of size 1 behind it as a weight (out, in, *kernel) has kernel axes."""
    return matrix.reshape(*matrix.shape, *(1,) * (weight.dim() - 2))
