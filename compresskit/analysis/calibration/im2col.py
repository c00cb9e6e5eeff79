"""What a layer's weights meet at each output position: the rows whose product with the weight matrix is the output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PLAIN = [one.forward for one in _CONVOLUTIONS]
#: what convolutions with a forward of their own pad, by the input's size
_PADDINGS: WeakKeyDictionary[nn.Module, dict[torch.Size, tuple[tuple[int, int], ...]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Window:
    """Which part of its input a layer reads for one output position.

    Attributes:
        kernel: sizes, one an axis; () for a layer that is applied to the last axis.
        stride: steps between output positions; of a transposed convolution, between input positions in the output.
        dilation: steps between kernel taps.
        padding: (before, after) of each axis; of a transposed convolution around its spread input.
        padding_mode: "zeros", or as `torch.nn.functional.pad` calls it.
        groups: parts of the channels that do not meet.
        transposed: whether the input is spread by the stride, and windows are read backwards.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    padding_mode: str = "zeros"
    groups: int = 1
    transposed: bool = False

    def columns(self, channels: int) -> int:
        """Length of one row for an input of so many channels."""
        return channels // self.groups * prod(self.kernel)


def needs_window(layer: nn.Module, inputs: Tensor | None = None) -> Window:
    """The window of a layer that has one.

    Args:
        layer: the layer.
        inputs: what it reads; convolutions that pad by themselves pad by its size.
    Raises:
        TypeError: of other layers.
    """
    window = window_of(layer, inputs)
    if window is None:
        raise TypeError(f"a {type(layer).__name__} has no window")
    return window


def window_of(layer: nn.Module, inputs: Tensor | None = None) -> Window | None:
    """The window of a linear layer, convolution or transposed convolution; None for other layers.

    Args:
        layer: the layer.
        inputs: what it reads; convolutions that pad by themselves pad by its size.
    """
    if isinstance(layer, nn.Linear) or is_transformers_linear(layer):
        return Window()
    if not isinstance(layer, (*_CONVOLUTIONS, *_TRANSPOSED)):
        return None
    kernel, stride, dilation = tuple(layer.kernel_size), tuple(layer.stride), tuple(layer.dilation)
    if isinstance(layer.padding, str):
        reaches = [d * (k - 1) if layer.padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple((reach // 2, reach - reach // 2) for reach in reaches)
    elif isinstance(layer, _TRANSPOSED):
        around = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, layer.padding, strict=True)]
        padding = tuple((side, side + extra) for side, extra in zip(around, layer.output_padding, strict=True))
    else:
        padding = tuple((side, side) for side in layer.padding)
    transposed = isinstance(layer, _TRANSPOSED)
    window = Window(kernel, stride, dilation, padding, layer.padding_mode, layer.groups, transposed)
    if inputs is None or transposed or _forward(layer) in _PLAIN or not inputs.numel():
        return window
    return _as_it_pads(layer, window, inputs)


def _forward(layer: nn.Module) -> Callable[..., Any]:
    """The forward that pads: that of the layer's class, or of the float class which one of ours computes with."""
    classes = (one for one in type(layer).__mro__ if "forward" in vars(one))
    ours = __name__.partition(".")[0]
    return next(vars(one)["forward"] for one in classes if one.__module__.partition(".")[0] != ours)


@torch.inference_mode(False)
@torch.enable_grad()
def _as_it_pads(layer: nn.Module, window: Window, inputs: Tensor) -> Window:
    """The window of a convolution with a forward of its own, which may pad (TensorFlow's "same"), for that input size.

    The gradient of one output position shows where its window lies.
    """
    size = inputs.shape[-len(window.kernel) :]
    known = _PADDINGS.setdefault(layer, {})
    if size not in known:
        dtype = next((one.dtype for one in layer.parameters() if one.is_floating_point()), inputs.dtype)
        probe = inputs.new_zeros(1, inputs.shape[-len(size) - 1], *size, dtype=dtype).requires_grad_()
        outputs = _forward(layer)(layer, probe)  # past the hooks that watch it
        middle = [length // 2 for length in outputs.shape[2:]]
        picked = outputs[(0, slice(None), *middle)].sum()
        touched = torch.autograd.grad(picked, probe)[0][0].abs().sum(0) > 0
        padding = list(window.padding)
        for axis, length in enumerate(size):
            others = [other for other in range(len(size)) if other != axis]
            taps = (touched.any(dim=others) if others else touched).nonzero().flatten().tolist()
            reach = window.dilation[axis] * (window.kernel[axis] - 1)
            if not taps or taps[-1] - taps[0] != reach:  # the window leaves the input, or outer taps are zero
                continue
            before = middle[axis] * window.stride[axis] - taps[0]
            padding[axis] = before, (outputs.shape[2 + axis] - 1) * window.stride[axis] + reach + 1 - length - before
        known[size] = tuple(padding)
    return replace(window, padding=known[size])


def is_transformers_linear(layer: nn.Module) -> bool:
    """Whether it is the transformers library's Conv1D, a linear layer with a transposed weight."""
    return (type(layer).__module__, type(layer).__name__) == ("transformers.pytorch_utils", "Conv1D")


def input_rows(window: Window, inputs: Tensor, positions: Tensor | None = None) -> Tensor:
    """What a layer's weights meet at each output position.

    Args:
        window: of the layer.
        inputs: (batch, channels, *size), or (..., channels) for a linear layer; a convolution's may lack the batch.
        positions: which output positions, as indices into the flattened (batch, *output size); None for all.
    Returns:
        (rows, groups, columns), columns in the order of the flattened weight (out, channels / groups, *kernel).
    """
    if not window.kernel:
        rows = inputs.reshape(-1, 1, inputs.shape[-1])
        return rows if positions is None else rows[positions]
    axes = len(window.kernel)
    inputs = inputs if inputs.dim() == axes + 2 else inputs[None]
    inputs = _padded(window, _spread(window, inputs) if window.transposed else inputs)
    windows = inputs = inputs if positions is None else inputs.contiguous()
    for axis, (kernel, dilation) in enumerate(zip(window.kernel, window.dilation, strict=True)):
        step = 1 if window.transposed else window.stride[axis]
        windows = windows.unfold(2 + axis, dilation * (kernel - 1) + 1, step)[..., ::dilation]
    windows = windows.movedim(1, 1 + axes)  # (batch, *output size, channels, *kernel)
    if positions is not None:
        rows = _taken(inputs, windows, positions, axes + 1)
    else:
        rows = windows.reshape(-1, *windows.shape[axes + 1 :])
    if window.transposed:
        rows = rows.flip(tuple(range(2, 2 + axes)))
    return rows.reshape(len(rows), window.groups, window.columns(inputs.shape[1]))


def output_rows(window: Window, outputs: Tensor, positions: Tensor | None = None) -> Tensor:
    """A layer's outputs at the same positions, (rows, out)."""
    if window.kernel:
        outputs = outputs if outputs.dim() == len(window.kernel) + 2 else outputs[None]
        outputs = outputs.movedim(1, -1)
    rows = outputs.reshape(-1, outputs.shape[-1])
    return rows if positions is None else rows[positions]


def output_positions(window: Window, outputs: Tensor) -> tuple[int, int]:
    """(examples, output positions of each) of a layer's outputs; (batch, *positions, out) or (batch, out, *size)."""
    if not window.kernel:
        examples = len(outputs) if outputs.dim() > 1 else 1
        return examples, outputs.numel() // max(examples * outputs.shape[-1], 1)
    size = outputs.shape[-len(window.kernel) :]
    return (len(outputs) if outputs.dim() == len(window.kernel) + 2 else 1), size.numel()


def _padded(window: Window, inputs: Tensor) -> Tensor:
    sides = [side for both in reversed(window.padding) for side in both]  # F.pad takes the last axis first
    mode = "constant" if window.padding_mode == "zeros" else window.padding_mode
    return F.pad(inputs, sides, mode=mode) if any(sides) else inputs


def _spread(window: Window, inputs: Tensor) -> Tensor:
    """A transposed convolution's input with zeros between: its windows at stride 1 give the output."""
    for axis, stride in enumerate(window.stride):
        size = inputs.shape[2 + axis]
        wide = inputs.new_zeros(*inputs.shape[: 2 + axis], (size - 1) * stride + 1, *inputs.shape[3 + axis :])
        wide.movedim(2 + axis, 0)[::stride] = inputs.movedim(2 + axis, 0)
        inputs = wide
    return inputs


def _taken(inputs: Tensor, windows: Tensor, positions: Tensor, leading: int) -> Tensor:
    """Some windows, a view of contiguous inputs, copied by their places in memory.

    4096 of 65,536 positions of a 3x3 convolution of 16 channels take 3 ms (one core), 10 ms by indexing with tensors
    and 73 ms if all are copied first; of a 256-channel one 180, 217 and 155 ms.
    """
    places, columns = windows.shape[:leading], windows.shape[leading:]
    begins = _offsets(positions.to(inputs.device), places, windows.stride()[:leading])
    taps = torch.arange(columns.numel(), device=inputs.device)
    offsets = _offsets(taps, columns, windows.stride()[leading:])
    return torch.take(inputs, begins[:, None] + offsets).reshape(len(positions), *columns)


def _offsets(flat: Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """Where the elements of flat indices are; `torch.unravel_index` would load sympy, which takes half a second."""
    found = torch.zeros_like(flat)
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        found += flat % size * stride
        flat = flat // size
    return found
