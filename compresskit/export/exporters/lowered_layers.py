"""Quantized layers with their arithmetic in PyTorch's standard quantize/dequantize operators, for exporters."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ...core.tensors.copying import copy_module
from ...core.tensors.modules import tensor_of
from ...quantization.formats import uniform
from ...quantization.layers.conversion import become
from ...quantization.layers.layer_spec import STACK
from ...quantization.layers.quantized_layer import (
    Quantized,
    along_channels,
    forward_of,
    from_matrix,
    matrix_shape,
    quantized_class,
    quantized_layers,
    shared_axes,
    to_matrix,
)


def decomposed() -> Any:
    """PyTorch's namespace of standard quantization operators; importing their module registers them."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


class Lowered(Quantized):
    """A quantized layer whose arithmetic is written in standard operators."""

    input_constants: tuple[float, int]
    output_constants: tuple[float, int]
    operand_constants: list[tuple[float, int]]
    weight_lowered: Tensor
    weight_lowered_scale: Tensor
    weight_lowered_zero_point: Tensor
    weight_lowered_sums: Tensor

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if "weight_lowered_sums" not in self._buffers:
            return super().forward(*inputs, **named)
        output = self._product_of_tokens(inputs[0])
        return output if self.spec.output == "none" else self.quantize_output(output)

    def _product_of_tokens(self, values: Tensor) -> Tensor:
        """A linear map of what has a range of its own at each token: that of the codes, then scaled.

        Codes are quantized with a scale of 1, which changes nothing, and tells runtimes to multiply integers. With
        codes c, scale s and zero point z of a token: W (s (c - z)) = s (W c - z W 1).
        """
        spec = self.spec
        if spec.input_multiplier:
            values = values * self.input_multiplier
        low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
        scale, zero_point = uniform.range_to_scale(low, high, spec.input_bits, symmetric=spec.input_symmetric)
        codes = values / scale + zero_point  # the quantizer rounds them and cuts them off
        codes = _round_trip(codes, (1.0, 0), spec.input_bits)
        weight = self.dequantized("weight")
        product = nn.functional.linear(codes, weight) if isinstance(self, nn.Linear) else codes @ weight
        product = (product - zero_point * self.weight_lowered_sums) * scale
        bias = self._parameters.get("bias")
        return product if bias is None else product + bias

    def quantize_input(self, values: Tensor) -> Tensor:
        spec = self.spec
        if spec.input_multiplier:
            values = values * along_channels(self.input_multiplier, self)
        if spec.input == "static":
            return _round_trip(values, self.input_constants, spec.input_bits)
        if spec.input == "dynamic":
            if spec.input_ranges != "tensor":
                shared = shared_axes(values, self)
                return _round_trip_by_parts(values, shared, spec.input_bits, symmetric=spec.input_symmetric)
            return _dynamic_round_trip(values, spec.input_bits, symmetric=spec.input_symmetric)
        return values

    def quantize_operand(self, values: Tensor, index: int) -> Tensor:
        spec = self.spec
        if spec.operand_ranges == "dynamic":
            return _dynamic_round_trip(values, spec.operand_bits, symmetric=spec.operand_symmetric)
        return _round_trip(values, self.operand_constants[index], spec.operand_bits)

    def quantize_output(self, output: Tensor) -> Tensor:
        if not output.is_floating_point():
            return output
        return _round_trip(output, self.output_constants, self.spec.output_bits)

    def dequantized(self, parameter: str) -> Tensor:
        values = getattr(self, f"{parameter}_lowered")
        if values.is_floating_point():
            return values
        scale = getattr(self, f"{parameter}_lowered_scale")
        zero_point = self._buffers.get(f"{parameter}_lowered_zero_point")  # groups with symmetric ranges have none
        if self.spec.granularity == "group":
            limits = (-128, 127, torch.int8, self.spec.group_size, torch.float32)
            matrix = decomposed().dequantize_per_channel_group(values, scale, zero_point, *limits)
            shape = self.parameter_shapes[parameter]
            columns = matrix_shape(shape, self.spec.axis)[1]
            matrix = matrix[:, :columns] if columns < matrix.shape[1] else matrix
            return matrix if matrix.shape == shape else from_matrix(matrix, shape, self.spec.axis)
        return decomposed().dequantize_per_channel(values, scale, zero_point, self.spec.axis, -128, 127, torch.int8)


class LoweredEmbedding(Lowered):
    """An embedding that looks up codes and scales, and so never dequantizes its whole table."""

    def _float_forward(self, indices: Tensor) -> Tensor:
        tables = [self.weight_lowered, self.weight_lowered_scale.unsqueeze(1)]
        if not self.spec.symmetric:
            tables.append(self.weight_lowered_zero_point.unsqueeze(1))
        codes, scale, *zero_points = (nn.functional.embedding(indices, table) for table in tables)
        values = codes.float()
        for zero_point in zero_points:
            values = values - zero_point
        return values * scale


def _round_trip(values: Tensor, constants: tuple[float, int], bits: int) -> Tensor:
    top, (scale, zero_point) = uniform.highest_code(bits), constants
    if bits < 8:  # runtimes quantize to bytes and know no other limits
        values = values.clamp(-zero_point * scale, (top - zero_point) * scale)
    limits = (*constants, 0, top, torch.uint8)
    return decomposed().dequantize_per_tensor(decomposed().quantize_per_tensor(values, *limits), *limits)


def _round_trip_by_parts(values: Tensor, shared: tuple[int, ...], bits: int, *, symmetric: bool) -> Tensor:
    """In plain arithmetic, and so in float: no runtime's quantizer finds a range for each position or channel."""
    low, high = values.amin(shared, keepdim=True), values.amax(shared, keepdim=True)
    return uniform.round_trip(values, *uniform.range_to_scale(low, high, bits, symmetric=symmetric), bits)


def _dynamic_round_trip(values: Tensor, bits: int, *, symmetric: bool) -> Tensor:
    limits = (0, uniform.highest_code(bits), torch.uint8)
    if symmetric or bits < 8:  # what runtimes find ranges with is asymmetric and for bytes
        scale, zero_point = uniform.range_to_scale(values.min(), values.max(), bits, symmetric=symmetric)
        if bits < 8:
            values = values.clamp(-zero_point * scale, (limits[1] - zero_point) * scale)
        zero_point = zero_point.long()
    else:
        scale, zero_point = decomposed().choose_qparams.tensor(values, *limits[:2], uniform.SMALLEST_SCALE, torch.uint8)
    codes = decomposed().quantize_per_tensor.tensor(values, scale, zero_point, *limits)
    return decomposed().dequantize_per_tensor.tensor(codes, scale, zero_point, *limits)


@cache
def _lowered_class(float_class: type[nn.Module], parameters: tuple[str, ...], looks_up: bool) -> type:
    base = quantized_class(float_class, parameters)  # type: ignore[arg-type]  # mypy takes no class for hashable
    own = LoweredEmbedding if looks_up else Lowered
    members = {"float_class": float_class, "__module__": __name__, "forward": forward_of(own, float_class)}
    return type(f"Lowered{float_class.__name__}", (own, base), members)


def lower(root: nn.Module) -> nn.Module:
    """A copy of a model whose quantized layers compute in standard quantize/dequantize operators.

    Integer weights become int8 with a scale a channel or a group; those of other formats, and what recurrent layers
    and bags of embeddings read, become float constants.
    """
    lowered = copy_module(root).eval()
    decomposed()
    for layer in quantized_layers(lowered).values():
        for site in ("input", "output"):
            if getattr(layer.spec, site) == "static":
                constants = (float(getattr(layer, f"{site}_scale")), int(getattr(layer, f"{site}_zero_point")))
                setattr(layer, f"{site}_constants", constants)
        if layer.spec.operands and layer.spec.operand_ranges == "static":
            vars(layer)["operand_constants"] = list(
                zip(layer.operand_scale.tolist(), layer.operand_zero_point.tolist(), strict=True)
            )
        for name in layer.spec.parameters:
            _lower_parameter(layer, name)
        if _multiplies_tokens(layer):
            rows = to_matrix(layer.dequantized("weight"), layer.spec.axis)
            layer.register_buffer("weight_lowered_sums", rows.double().sum(1).float())
        integers = "weight_lowered" in layer._buffers and not tensor_of(layer, "weight_lowered").is_floating_point()
        looks_up = isinstance(layer, nn.Embedding) and integers
        become(layer, _lowered_class(layer.float_class, layer.spec.parameters, looks_up))  # type: ignore[arg-type]  # as above
    return lowered


def _multiplies_tokens(layer: Quantized) -> bool:
    """Whether a layer is a linear map of integer weights, a scale a row, whose input has a range at each token."""
    spec = layer.spec
    of_tokens = spec.input == "dynamic" and spec.input_ranges == "token" and spec.parameters == ("weight",)
    linear = of_tokens and len(layer.parameter_shapes["weight"]) == 2
    return linear and spec.granularity != "group" and lowers_to_integers(layer)


@torch.no_grad()
def _lower_parameter(layer: Quantized, name: str) -> None:
    """Give a layer `NAME_lowered` constants: int8 codes with their scales where possible, else float weights."""
    spec = layer.spec
    rows = matrix_shape(layer.parameter_shapes[name], spec.axis)[0]
    if not lowers_to_integers(layer):
        # a tensor of its own: what is a part of padded blocks is saved with all of them
        layer.register_buffer(f"{name}_lowered", layer.dequantized(name).clone(memory_format=torch.contiguous_format))
        return
    if spec.granularity == "group":
        _lower_groups(layer, name)
        return
    shape = layer.parameter_shapes[name]
    middle = uniform.middle_code(spec.bits)
    zero_point = torch.zeros(rows, dtype=torch.int64)
    if not spec.symmetric:
        zero_point += to_matrix(getattr(layer, f"{name}_zero_point").long(), 0).reshape(-1) - middle
    signed = (layer.codes(name).to(torch.int16) - middle).to(torch.int8)
    layer.register_buffer(f"{name}_lowered", from_matrix(signed, shape, spec.axis).contiguous())
    layer.register_buffer(
        f"{name}_lowered_scale", getattr(layer, f"{name}_scale").float().reshape(-1).expand(rows).contiguous()
    )
    layer.register_buffer(f"{name}_lowered_zero_point", zero_point)


def lowers_to_integers(layer: Quantized) -> bool:
    """Whether a layer's weights become int8 codes with scales; others become float constants."""
    if layer.number_format.lowering != "integers" or isinstance(layer, nn.RNNBase | nn.RNNCellBase | nn.EmbeddingBag):
        return False
    if layer.spec.axis >= STACK:
        return False
    return not isinstance(layer, nn.Embedding) or (layer.max_norm is None and layer.spec.granularity != "group")


def _lower_groups(layer: Quantized, name: str) -> None:
    """Codes as (rows, columns), the columns filled up to whole groups; scales and zero points as (rows, groups)."""
    spec, middle = layer.spec, uniform.middle_code(layer.spec.bits)
    codes = layer.codes(name).to(torch.int16) - middle
    codes = nn.functional.pad(codes, (0, -codes.shape[1] % spec.needs_group_size())).to(torch.int8)
    zero_point = None if spec.symmetric else getattr(layer, f"{name}_zero_point").to(torch.int16) - middle
    layer.register_buffer(f"{name}_lowered", codes.contiguous())
    layer.register_buffer(f"{name}_lowered_scale", getattr(layer, f"{name}_scale").float().contiguous())
    if zero_point is not None:
        layer.register_buffer(f"{name}_lowered_zero_point", zero_point.to(torch.int8))
