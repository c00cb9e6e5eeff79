"""Quantized layers: the float layer's own class, with integer buffers in the place of its weights.

A layer is turned in place into a subclass of its own class in which each quantized parameter is a property that
dequantizes the stored values, so the class's own forward computes with exactly those weights, whatever the layer:
convolutions of any dimension, transposed ones, linear, embedding, attention projections, recurrent cells.
Its input and output may be quantized and dequantized on the way.

A `Spec` (see layer_spec.py) is the geometry, and the body of the edit `{"op": "quantized", "target": ..., **spec}` too.
Its number format (a row of FORMATS) says what the layer holds for a weight, and how the weight is read from it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from compresskit.core.errors import InputError
from compresskit.core.tensors.dtypes import FLOATS, HALVES
from compresskit.model.libraries.experts import is_experts

from ..calibration.attention_matmuls import products_of
from ..formats import uniform
from ..formats.number_format import NumberFormat
from ..formats.saturation import is_depthwise
from ..tables import FORMATS
from .layer_spec import STACK, TURNED_STACK, Spec

#: number formats that the user named by reference in this process: an artifact's edits may hold these, and no others
_NAMED: dict[str, NumberFormat] = {}


def name_format(name: str) -> NumberFormat:
    """The number format that the user named: a row of FORMATS, or their own, which artifacts may hold from now on."""
    found = FORMATS.load(name)
    if name not in FORMATS:
        _NAMED[name] = found
    return found


def format_of(name: str) -> NumberFormat:
    """The number format of a layer or an edit; runs no code that the user did not name.

    Raises:
        InputError: if the name is a user's own and was not named in this process.
    """
    if name in _NAMED:
        return _NAMED[name]
    if name not in FORMATS:
        raise InputError(f"number format {name!r} is the user's own code; say --trust-source to run it")
    return FORMATS.load(name)


def to_matrix(tensor: Tensor, axis: int) -> Tensor:
    """A parameter as (rows, columns), rows counting the output channels on `axis`, of a stack those of every matrix."""
    if axis >= STACK:
        matrices = tensor.transpose(1, 2) if axis == TURNED_STACK else tensor
        return matrices.reshape(-1, matrices.shape[2])
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def matrix_shape(shape: torch.Size, axis: int) -> tuple[int, int]:
    """Rows and columns of a parameter of the given shape."""
    if axis >= STACK:
        count, rows, columns = _matrices(shape, axis)
        return count * rows, columns
    return shape[axis], shape.numel() // max(shape[axis], 1)


def kernel_columns(shape: torch.Size, axis: int) -> int:
    """How many columns of `to_matrix` belong to one input channel: the taps of a convolution's kernel."""
    return 1 if axis >= STACK else shape[2:].numel()


def from_matrix(matrix: Tensor, shape: torch.Size, axis: int) -> Tensor:
    """Undo `to_matrix` for a parameter of the given shape."""
    if axis >= STACK:
        matrices = matrix.reshape(_matrices(shape, axis))
        return matrices.transpose(1, 2) if axis == TURNED_STACK else matrices
    moved = torch.Size([shape[axis], *shape[:axis], *shape[axis + 1 :]])
    return matrix.reshape(moved).movedim(0, axis)


def _matrices(shape: torch.Size, axis: int) -> tuple[int, int, int]:
    """(matrices, rows of each, columns) of a stack."""
    count, *sides = shape
    rows, columns = reversed(sides) if axis == TURNED_STACK else sides
    return count, rows, columns


def output_axis(layer: nn.Module) -> int:
    """The dimension of a layer's weight that counts its output channels, or the kind of stack that it is."""
    if is_experts(layer):
        return TURNED_STACK if layer.is_transposed else STACK
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    # the transformers library's Conv1D holds its weight as (in, out)
    return 1 if transposed or type(layer).__name__ == "Conv1D" else 0


class Quantized(nn.Module):
    """What quantized layers share; stands before the float class in the method resolution order."""

    float_class: type[nn.Module]
    spec: Spec
    parameter_shapes: dict[str, torch.Size]
    input_multiplier: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    operand_scale: Tensor
    operand_zero_point: Tensor
    output_scale: Tensor
    output_zero_point: Tensor
    read_dtype: torch.dtype  # of dequantized weights; `core.tensors.dtypes.float32_weights` widens it

    @property
    def weight_elements(self) -> int:
        """How many weights the integer buffers stand for; parameter counts read it."""
        return sum(shape.numel() for shape in self.parameter_shapes.values())

    @property
    def mac_bits(self) -> int | None:
        """Bits of what an integer kernel multiplies; None where inputs are float, so that products are as well."""
        integers = self.spec.parameters and self.spec.input != "none" and self.number_format.lowering == "integers"
        # products of channels of several scales cannot be summed in integers
        summed = self.spec.input_ranges != "channel" or is_depthwise(self)
        return max(self.spec.bits, self.spec.input_bits) if integers and summed else None

    @property
    def weight_dtype(self) -> torch.dtype | None:
        """The number type that quantized weights are read in; float64 where the model was made double."""
        if not self.spec.parameters:
            return None
        held = self._parts(self.spec.parameters[0]).values()
        return torch.float64 if any(tensor.dtype == torch.float64 for tensor in held) else self.read_dtype

    @property
    def number_format(self) -> NumberFormat:
        """How the layer's weights are held."""
        return format_of(self.spec.format)

    def _parts(self, parameter: str) -> dict[str, Tensor]:
        """The tensors that the layer holds for a parameter, by part."""
        stored = self.number_format.stored(self.parameter_shapes[parameter], self.spec)
        return {part: getattr(self, f"{parameter}_{part}") for part in stored}

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        """A layer whose weights are held without floats (scales may be exponents) follows `double()` all the same."""
        super()._apply(fn, recurse)
        held = [tensor for name in self.spec.parameters for tensor in self._parts(name).values()]
        if held and not any(tensor.is_floating_point() for tensor in held):
            wanted = fn(torch.empty(0, dtype=self.read_dtype)).dtype
            self.read_dtype = wanted if wanted in FLOATS else self.read_dtype
        return self

    def forward(self, *inputs: Any, **named: Any) -> Any:
        spec = self.spec
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].is_floating_point():
            inputs = (self.quantize_input(inputs[0]), *inputs[1:])
        output = self._float_forward(*inputs, **named)
        # attention returns its one tensor in a tuple
        return output if spec.output == "none" else tree_map_only(Tensor, self.quantize_output, output)

    def _float_forward(self, *inputs: Any, **named: Any) -> Any:
        """The float class's forward, what its own products of activations read quantized on the way."""
        if not self.spec.operands:
            return super().forward(*inputs, **named)
        place = count()

        def take(values: Tensor) -> Tensor:
            index = next(place)
            if index >= self.spec.operands:
                raise InputError(f"this input makes more products than the {self.spec.operands} operands calibrated")
            return self.quantize_operand(values, index)

        with products_of(self, take):
            return super().forward(*inputs, **named)

    def quantize_operand(self, values: Tensor, index: int) -> Tensor:
        """What a product computes with in the place of the operand of that index."""
        spec = self.spec
        if spec.operand_ranges == "dynamic":
            return _quantize_by_own_range(values, spec.operand_bits, symmetric=spec.operand_symmetric)
        return quantize_activation(values, self.operand_scale[index], self.operand_zero_point[index], spec.operand_bits)

    def quantize_output(self, output: Tensor) -> Tensor:
        """What the layer returns in the place of its output."""
        return quantize_activation(output, self.output_scale, self.output_zero_point, self.spec.output_bits)

    def quantize_input(self, values: Tensor) -> Tensor:
        """What the layer computes with in the place of its input."""
        spec, dtype = self.spec, values.dtype
        if spec.input_multiplier:
            values = (values * along_channels(self.input_multiplier, self)).to(dtype)
        if spec.input == "static":
            return quantize_activation(values, self.input_scale, self.input_zero_point, spec.input_bits)
        if spec.input == "dynamic":
            shared = shared_axes(values, self)
            return _quantize_by_own_range(values, spec.input_bits, symmetric=spec.input_symmetric, shared=shared)
        return values

    def codes(self, parameter: str) -> Tensor:
        """Unsigned codes (or codebook indices) of a parameter, (rows, columns) uint8."""
        values = getattr(self, f"{parameter}_values")
        return self.number_format.unpack(values, self.parameter_shapes[parameter], self.spec)

    def read(self, parameter: str) -> Tensor:
        """The values of a quantized parameter, kept between forwards in evaluation until a part of it changes."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.dequantized(parameter)
        held = list(self._parts(parameter).values())
        if any(tensor.is_inference() or tensor.is_meta for tensor in held):  # these keep no version
            return self.dequantized(parameter)
        key = [self.weight_dtype, *((id(tensor), tensor._version) for tensor in held)]
        kept = self.__dict__.setdefault("_kept", {})
        if kept.get(parameter, (None,))[0] != key:
            kept[parameter] = (key, self.dequantized(parameter))
        return kept[parameter][1]

    def forget(self) -> None:
        """Let go of what `read` keeps; the next forward reads anew."""
        self.__dict__.pop("_kept", None)

    def dequantized(self, parameter: str) -> Tensor:
        """The values of a quantized parameter, in its own shape."""
        parts = self._parts(parameter) | {"values": self.codes(parameter)}
        matrix = self.number_format.dequantize(parts, self.spec)
        return from_matrix(matrix, self.parameter_shapes[parameter], self.spec.axis).to(self.weight_dtype)

    def extra_repr(self) -> str:
        """The float layer's own, and how it is quantized."""
        spec = self.spec
        parts = [super().extra_repr()]
        if spec.parameters:
            named = [] if spec.format == Spec.format else [f"format={spec.format}"]
            parts += [*named, f"bits={spec.bits}", f"granularity={spec.granularity}"]
        parts += [
            f"input={spec.input}" if spec.input != "none" else "",
            f"output={spec.output}" if spec.output != "none" else "",
            f"operands={spec.operands}" if spec.operands else "",
        ]
        return ", ".join(part for part in parts if part)


def along_channels(vector: Tensor, layer: nn.Module) -> Tensor:
    """A vector over input channels, shaped to broadcast against a layer's input."""
    spatial = len(getattr(layer, "kernel_size", ()))  # a linear layer has its channels last
    return vector.reshape(-1, *[1] * spatial)


def quantize_activation(values: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Quantize and dequantize a float tensor with one scale; one of integers passes as it is."""
    if not values.is_floating_point():
        return values
    if values.dtype in HALVES:  # 16 bits round once more than the kernels do
        return quantize_activation(values.float(), scale, zero_point, bits).to(values.dtype)
    if values.requires_grad and torch.is_grad_enabled():
        # straight-through: gradients pass where nothing saturates
        low, high = (0 - zero_point) * scale, (uniform.highest_code(bits) - zero_point) * scale
        clipped = torch.minimum(torch.maximum(values, low), high)
        return clipped + (uniform.round_trip(values.detach(), scale, zero_point, bits) - clipped).detach()
    # in place after the first step: activations are large, and this runs before every layer
    codes = (values / scale).round_().add_(zero_point).clamp_(0, uniform.highest_code(bits))
    return codes.sub_(zero_point).mul_(scale).to(values.dtype)


def shared_axes(values: Tensor, layer: Quantized) -> tuple[int, ...]:
    """The axes of a layer's input along which one range holds: all, that of the channels, or all the others."""
    axes = tuple(range(values.dim()))
    if layer.spec.input_ranges == "tensor":
        return axes
    channels = values.dim() - 1 - len(getattr(layer, "kernel_size", ()))  # a linear layer has its channels last
    by_token = layer.spec.input_ranges == "token"
    return tuple(axis for axis in axes if (axis == channels) is by_token)


def _quantize_by_own_range(
    values: Tensor, bits: int, *, symmetric: bool, shared: tuple[int, ...] | None = None
) -> Tensor:
    """Quantize and dequantize with the range that the tensor itself has, or its parts along some axes."""
    if not values.is_floating_point() or not values.numel():
        return values
    if shared is None or len(shared) == values.dim():
        low, high = values.detach().aminmax()
    elif len(shared) == 1:  # read once, for both
        low, high = values.detach().aminmax(dim=shared[0], keepdim=True)
    else:
        low, high = values.detach().amin(shared, keepdim=True), values.detach().amax(shared, keepdim=True)
    scale, zero_point = uniform.range_to_scale(low, high, bits, symmetric=symmetric)
    return quantize_activation(values, scale, zero_point, bits)


def _reads(name: str) -> property:
    def read(layer: Quantized) -> Tensor:
        return layer.read(name)

    return property(read)


def forward_of(own: type[Quantized], float_class: type[nn.Module]) -> Callable[..., Any]:
    """The forward of a class of ours with a float class's signature, which says how inputs are passed."""
    return wraps(float_class.forward)(lambda self, *inputs, **named: own.forward(self, *inputs, **named))


@cache
def quantized_class(float_class: type[nn.Module], parameters: tuple[str, ...]) -> type:
    """The subclass of a layer's class in which the parameters are dequantized when read."""
    members: dict[str, Any] = {"float_class": float_class, "__module__": __name__}
    for name in parameters:
        members[name] = _reads(name)
    if issubclass(float_class, nn.RNNBase):
        # recurrent layers read their weights from this list; nothing may store into it
        members["_flat_weights"] = property(
            lambda self: [getattr(self, name) for name in self._flat_weights_names], lambda self, value: None
        )
    members["forward"] = forward_of(Quantized, float_class)
    return type(f"Quantized{float_class.__name__}", (Quantized, float_class), members)


def quantized_layers(root: nn.Module) -> dict[str, Quantized]:
    """All modules that quantize something, by name."""
    return {name: module for name, module in root.named_modules() if isinstance(module, Quantized)}
