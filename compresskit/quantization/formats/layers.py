"""Quantized layers: the float layer's own class, with integer buffers in the place of its weights.

A layer is turned in place into a subclass of its own class in which each quantized parameter is a property that
dequantizes the stored values, so the class's own forward computes with exactly those weights, whatever the layer:
convolutions of any dimension, transposed ones, linear, embedding, attention projections, recurrent cells.
Its input and output may be quantized and dequantized on the way.

A `Spec` (see spec.py) is the geometry, and also the body of the edit `{"op": "quantized", "target": ..., **spec}`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from compresskit.core.edit_records import reads
from compresskit.core.errors import InputError
from compresskit.core.tensors.dtypes import HALVES
from compresskit.core.tensors.modules import device_of, get_module

from ..calibration.attention_matmuls import products_of
from . import uniform
from .layer_spec import QuantizedRecord, Spec, spec_from_edit
from .packing import packed_bytes, unpack

FLOAT8 = torch.float8_e4m3fn


def to_matrix(tensor: Tensor, axis: int) -> Tensor:
    """A parameter as (rows, columns), rows counting the output channels on `axis`."""
    return tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)


def from_matrix(matrix: Tensor, shape: torch.Size, axis: int) -> Tensor:
    """Undo `to_matrix` for a parameter of the given shape."""
    moved = torch.Size([shape[axis], *shape[:axis], *shape[axis + 1 :]])
    return matrix.reshape(moved).movedim(0, axis)


def output_axis(layer: nn.Module) -> int:
    """The dimension of a layer's weight that counts its output channels."""
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    # the transformers library's Conv1D holds its weight as (in, out)
    return 1 if transposed or type(layer).__name__ == "Conv1D" else 0


class Quantized:
    """What quantized layers share; stands before the float class in the method resolution order."""

    float_class: type[nn.Module]
    spec: Spec
    parameter_shapes: dict[str, torch.Size]
    read_dtype: torch.dtype  # of dequantized weights; `core.dtypes.float32_weights` widens it

    @property
    def weight_elements(self) -> int:
        """How many weights the integer buffers stand for; parameter counts read it."""
        return sum(shape.numel() for shape in self.parameter_shapes.values())

    @property
    def weight_dtype(self) -> torch.dtype | None:
        """The number type that quantized weights are read in; float64 where the model was made double."""
        if not self.spec.parameters:
            return None
        stored = self._buffers.get(f"{self.spec.parameters[0]}_scale")
        if stored is None:
            stored = self._parameters[f"{self.spec.parameters[0]}_codebook"]
        return torch.float64 if stored.dtype == torch.float64 else self.read_dtype

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
            return _quantize_by_own_range(values, spec.input_bits, symmetric=spec.input_symmetric)
        return values

    def codes(self, parameter: str) -> Tensor:
        """Unsigned codes (or codebook indices) of a parameter, (rows, columns) uint8."""
        spec, shape = self.spec, self.parameter_shapes[parameter]
        values = getattr(self, f"{parameter}_values")
        if spec.packed:
            return unpack(values, spec.bits, shape.numel()).reshape(shape[spec.axis], -1)
        if values.dtype == torch.int8:
            # signed storage of symmetric codes
            values = (values.to(torch.int16) + uniform.middle_code(spec.bits)).to(torch.uint8)
        return to_matrix(values, spec.axis)

    def read(self, parameter: str) -> Tensor:
        """The values of a quantized parameter, kept between forwards in evaluation until a buffer changes."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.dequantized(parameter)
        buffers = [value for name, value in self._buffers.items() if name.startswith(f"{parameter}_")]
        if any(buffer.is_inference() or buffer.is_meta for buffer in buffers):  # these keep no version
            return self.dequantized(parameter)
        key = [self.weight_dtype, *((id(buffer), buffer._version) for buffer in buffers)]
        kept = self.__dict__.setdefault("_kept", {})
        if kept.get(parameter, (None,))[0] != key:
            kept[parameter] = (key, self.dequantized(parameter))
        return kept[parameter][1]

    def dequantized(self, parameter: str) -> Tensor:
        """The values of a quantized parameter, in its own shape."""
        spec, shape = self.spec, self.parameter_shapes[parameter]
        if spec.format == "codebook":
            codebook = getattr(self, f"{parameter}_codebook")
            codebook = nn.functional.pad(codebook, (1, 0)) if spec.zero_index else codebook
            matrix = codebook[self.codes(parameter).long()]
            return from_matrix(matrix, shape, spec.axis).to(self.weight_dtype)
        scale = getattr(self, f"{parameter}_scale")
        scale = scale.float() if scale.dtype == torch.float16 else scale
        scale = uniform.expand_groups(scale, shape.numel() // shape[spec.axis], spec.group_size)
        if spec.format == "float8":
            matrix = to_matrix(getattr(self, f"{parameter}_values"), spec.axis).to(scale.dtype) * scale
        else:
            matrix = (self.codes(parameter).to(scale.dtype) - self._wide_zero_point(parameter)) * scale
        return from_matrix(matrix, shape, spec.axis).to(self.weight_dtype)

    def _wide_zero_point(self, parameter: str) -> Tensor | int:
        spec, shape = self.spec, self.parameter_shapes[parameter]
        if spec.symmetric:
            return uniform.middle_code(spec.bits)
        columns = shape.numel() // shape[spec.axis]
        return uniform.expand_groups(getattr(self, f"{parameter}_zero_point"), columns, spec.group_size).float()

    def extra_repr(self) -> str:
        """The float layer's own, and how it is quantized."""
        spec = self.spec
        parts = [super().extra_repr(), f"bits={spec.bits}, granularity={spec.granularity}" if spec.parameters else ""]
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


def _quantize_by_own_range(values: Tensor, bits: int, *, symmetric: bool) -> Tensor:
    """Quantize and dequantize with the range that the tensor itself has."""
    if not values.is_floating_point() or not values.numel():
        return values
    low, high = values.detach().aminmax()
    scale, zero_point = uniform.range_to_scale(low, high, bits, symmetric=symmetric)
    return quantize_activation(values, scale, zero_point, bits)


@cache
def quantized_class(float_class: type[nn.Module], parameters: tuple[str, ...]) -> type:
    """The subclass of a layer's class in which the parameters are dequantized when read."""
    members: dict[str, Any] = {"float_class": float_class, "__module__": __name__}
    for name in parameters:
        members[name] = property(lambda self, name=name: self.read(name))
    if issubclass(float_class, nn.RNNBase):
        # recurrent layers read their weights from this list; nothing may store into it
        members["_flat_weights"] = property(
            lambda self: [getattr(self, name) for name in self._flat_weights_names], lambda self, value: None
        )
    return type(f"Quantized{float_class.__name__}", (Quantized, float_class), members)


def convert(layer: nn.Module, spec: Spec) -> nn.Module:
    """Turn a layer in place into a quantized layer with empty buffers; scales and values are filled in afterwards.

    Converting a layer again may add the input's or output's quantization to it, or its weights' if it had none.

    Raises:
        InputError: if the layer lacks a named parameter, or has it quantized already.
    """
    float_class = layer.float_class if isinstance(layer, Quantized) else type(layer)
    shapes = dict(layer.parameter_shapes) if isinstance(layer, Quantized) else {}
    if isinstance(layer, Quantized):
        spec = _merge(layer.spec, spec)
    for name in spec.parameters:
        if name in shapes:
            continue
        parameter = layer._parameters.get(name)
        if parameter is None:
            raise InputError(f"a layer of type {float_class.__name__} has no parameter {name!r} to quantize")
        shapes[name] = parameter.shape
        del layer._parameters[name]
        _register_parameter_buffers(layer, name, parameter, spec)
    layer.__dict__.pop("_flat_weights", None)
    device = device_of(layer)
    for site in ("input", "output"):
        if getattr(spec, site) == "static" and f"{site}_scale" not in layer._buffers:
            layer.register_buffer(f"{site}_scale", torch.ones((), device=device))
            layer.register_buffer(f"{site}_zero_point", torch.zeros((), dtype=torch.int32, device=device))
    if spec.operands and spec.operand_ranges == "static" and "operand_scale" not in layer._buffers:
        layer.register_buffer("operand_scale", torch.ones(spec.operands, device=device))
        layer.register_buffer("operand_zero_point", torch.zeros(spec.operands, dtype=torch.int32, device=device))
    if spec.input_multiplier and "input_multiplier" not in layer._buffers:
        layer.register_buffer("input_multiplier", torch.ones(input_channels(layer), device=device))
    layer.__class__ = quantized_class(float_class, spec.parameters)
    layer.spec, layer.parameter_shapes = spec, shapes
    layer.read_dtype = getattr(torch, spec.weight_dtype)
    return layer


def input_channels(layer: nn.Module) -> int:
    """Channels of a linear or convolution layer's input."""
    channels = getattr(layer, "in_features", None) or getattr(layer, "in_channels", None)
    if channels is None:
        raise InputError(f"a layer of type {type(layer).__name__} has no input channels to scale")
    return channels


def _merge(old: Spec, new: Spec) -> Spec:
    """The spec of a layer that was quantized before and is quantized further."""
    if new.parameters and old.parameters:
        raise InputError(f"{', '.join(new.parameters)}: the layer's weights are quantized already")
    merged = replace(old if old.parameters else new, parameters=old.parameters or new.parameters)
    for site in ("input", "output"):
        keys = (site, f"{site}_bits", f"{site}_symmetric")
        chosen = new if getattr(new, site) != "none" else old
        merged = replace(merged, **{key: getattr(chosen, key) for key in keys})
    chosen = new if new.operands else old
    operand_keys = ("operands", "operand_ranges", "operand_bits", "operand_symmetric")
    merged = replace(merged, **{key: getattr(chosen, key) for key in operand_keys})
    return replace(merged, input_multiplier=old.input_multiplier or new.input_multiplier)


def _register_parameter_buffers(layer: nn.Module, name: str, parameter: Tensor, spec: Spec) -> None:
    shape, device = parameter.shape, parameter.device
    rows, columns = shape[spec.axis], shape.numel() // shape[spec.axis]
    if spec.format == "float8":
        values = torch.empty(shape, dtype=FLOAT8, device=device)
    elif spec.packed:
        values = torch.empty(packed_bytes(shape.numel(), spec.bits), dtype=torch.uint8, device=device)
    else:
        signed = spec.format == "int" and spec.symmetric
        values = torch.empty(shape, dtype=torch.int8 if signed else torch.uint8, device=device)
    layer.register_buffer(f"{name}_values", values)
    if spec.format == "codebook":
        # a parameter, so that any training step tunes the shared values
        entries = (1 << spec.bits) - spec.zero_index
        layer.register_parameter(f"{name}_codebook", nn.Parameter(torch.empty(entries, device=device)))
        return
    groups = -(-columns // spec.group_size) if spec.granularity == "group" else 1
    scale_shape = (1 if spec.granularity == "tensor" else rows, groups)
    layer.register_buffer(
        f"{name}_scale", torch.empty(scale_shape, dtype=getattr(torch, spec.scale_type), device=device)
    )
    if spec.format == "int" and not spec.symmetric:
        layer.register_buffer(f"{name}_zero_point", torch.empty(scale_shape, dtype=torch.uint8, device=device))


@reads(QuantizedRecord)
def replay(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op, target, **Spec}: the layer at target becomes quantized, shapes only."""
    convert(get_module(root, edit["target"]), spec_from_edit(edit))


def quantized_layers(root: nn.Module) -> dict[str, Quantized]:
    """All modules that quantize something, by name."""
    return {name: module for name, module in root.named_modules() if isinstance(module, Quantized)}
