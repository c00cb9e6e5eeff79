"""Quantized models as graphs that runtimes turn into integer kernels.

A copy of the model gets its quantization written out in PyTorch's standard quantize/dequantize operators and is
exported. torch.onnx turns those into QuantizeLinear/DequantizeLinear pairs, which ONNX Runtime and OpenVINO fuse with
the layer between them; inductor's x86 passes recognise the same pairs in a `.pt2`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_flatten, tree_unflatten

from compresskit.core.errors import InputError, first_line
from compresskit.core.tensors.dtypes import cast, copy_in, model_dtype
from compresskit.core.types import Inputs, call
from compresskit.model.example_inputs import with_batch
from compresskit.model.exported import exported_program

from ...core.tensors.copying import copy_module
from ...core.tensors.modules import tensor_of
from ...quantization.formats import uniform
from ...quantization.formats.conversion import become
from ...quantization.formats.layer_spec import STACK
from ...quantization.formats.layers import (
    Quantized,
    along_channels,
    from_matrix,
    matrix_shape,
    quantized_class,
    quantized_layers,
    to_matrix,
)
from ...quantization.formats.lookups import lookup_of
from .dynamic_axes import Axes
from .output_names import register_dataclasses
from .with_past import without_cache

#: where inputs of an exported program keep the names of their dynamic dimensions: {dimension: name}
AXES = "compresskit_axes"
#: where its graph module keeps what a file says of the model; see `export.description`
DESCRIPTION = "compresskit_description"
#: and where the codes of its float constants: name -> quantization.formats.lookups.Lookup
LOOKUPS = "compresskit_lookups"
#: operators that mean "the same codes again" when nothing stands between them
_QUANTIZE, _DEQUANTIZE = "quantize_per_tensor", "dequantize_per_tensor"


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

    def quantize_input(self, values: Tensor) -> Tensor:
        spec = self.spec
        if spec.input_multiplier:
            values = values * along_channels(self.input_multiplier, self)
        if spec.input == "static":
            return _round_trip(values, self.input_constants, spec.input_bits)
        if spec.input == "dynamic":
            if spec.input_ranges == "token":
                return _token_round_trip(values, spec.input_bits, symmetric=spec.input_symmetric)
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


def _token_round_trip(values: Tensor, bits: int, *, symmetric: bool) -> Tensor:
    """In plain arithmetic: no runtime's quantizer finds a range for each position."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
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
    return type(f"Lowered{float_class.__name__}", (own, base), {"float_class": float_class, "__module__": __name__})


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
        integers = "weight_lowered" in layer._buffers and not tensor_of(layer, "weight_lowered").is_floating_point()
        looks_up = isinstance(layer, nn.Embedding) and integers
        become(layer, _lowered_class(layer.float_class, layer.spec.parameters, looks_up))  # type: ignore[arg-type]  # as above
    return lowered


@torch.no_grad()
def _lower_parameter(layer: Quantized, name: str) -> None:
    """Give a layer `NAME_lowered` constants: int8 codes with their scales where possible, else float weights."""
    spec = layer.spec
    rows = matrix_shape(layer.parameter_shapes[name], spec.axis)[0]
    if not _lowers_to_integers(layer):
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


def _lowers_to_integers(layer: Quantized) -> bool:
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


def export_program(
    root: nn.Module, example: Inputs, axes: Sequence[Axes] | None = None
) -> torch.export.ExportedProgram:
    """Export a model, its quantization in standard operators, each tensor quantized once.

    Whatever type the model computes in, its graph computes in float32, for which all runtimes have kernels on all
    processors.

    Args:
        root: the model.
        example: inputs that it takes.
        axes: the dimensions of each input tensor that are left free where the model does not fix them, and what they
            are called; None leaves the batch size free.
    Raises:
        InputError: if torch.export cannot trace the model, or it is a program already and of another type.
    """
    program = exported_program(root)
    if program is not None:  # it is one already, of the sizes that it was exported for
        if model_dtype(root) not in (None, torch.float32):
            raise InputError("an exported program that does not compute in float32 stays as it is; export its factory")
        return program
    if model_dtype(root) not in (None, torch.float32):
        root = copy_in(root, torch.float32)
        example = cast(example, torch.float32)
    lowered = lower(root)
    # torch.export takes a size of 1 for a constant
    inputs = with_batch(example, 2) if axes is None else example
    args, kwargs = as_arguments(inputs)
    tensors, structure = tree_flatten((args, kwargs))
    if axes is None:
        axes = [{0: "batch"} if tensor.dim() else {} for tensor in tensors]
    free = tree_unflatten([dict.fromkeys(one, torch.export.Dim.AUTO) or None for one in axes], structure)
    try:
        with torch.no_grad(), without_cache(lowered):
            # of another batch size than is traced: a model that keeps the last one would take it for fixed
            register_dataclasses(call(lowered, with_batch(inputs, 1)))
            program = torch.export.export(lowered, args, kwargs, dynamic_shapes=_by_name(lowered, *free))
    except Exception as error:
        raise InputError(f"torch.export cannot trace this model: {first_line(error)}") from error
    merge_quantizers(program.graph)
    _drop_unread(program)
    program.graph_module.recompile()
    _name_axes(program, axes)
    program.graph_module.meta[LOOKUPS] = {
        f"{layer_name}.{name}_lowered".lstrip("."): lookup
        for layer_name, layer in quantized_layers(root).items()
        for name in (() if _lowers_to_integers(layer) else layer.spec.parameters)
        if (lookup := lookup_of(layer, name)) is not None
    }
    return program


def _drop_unread(program: torch.export.ExportedProgram) -> None:
    """Leave out tensors that nothing reads: codes as the artifact packs them, beside those that the graph reads."""
    held = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    kept = []
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind not in held or node.users or spec.target is None:
            kept.append(spec)
            continue
        program.graph.erase_node(node)
        for tensors in (program.state_dict, program.constants):
            tensors.pop(spec.target, None)
    program.graph_signature.input_specs[:] = kept


def _name_axes(program: torch.export.ExportedProgram, axes: Sequence[Axes]) -> None:
    """Note at each input what its dynamic dimensions are called; exporters read it there."""
    inputs = set(program.graph_signature.user_inputs)
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    for node, named in zip(placeholders, axes, strict=True):
        node.meta[AXES] = dict(named)


def _by_name(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Shapes keyed by argument name, as torch.export wants them; surplus ones belong to *args and **kwargs."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    named: dict[str, Any] = {}
    for position, value in enumerate(args):
        parameter = parameters[position]
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            named[parameter.name] = args[position:]
            break
        named[parameter.name] = value
    names = {parameter.name for parameter in parameters}
    named |= {name: value for name, value in kwargs.items() if name in names}
    surplus = {name: value for name, value in kwargs.items() if name not in names}
    return named | ({parameters[-1].name: surplus} if surplus else {})


def as_arguments(inputs: Inputs) -> tuple[tuple, dict[str, Tensor]]:
    """Positional and keyword arguments that a batch of inputs stands for."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (), dict(inputs)


def merge_quantizers(graph: torch.fx.Graph) -> int:
    """Drop quantizers of tensors that hold the same codes already, and quantize each tensor once.

    Returns:
        how many quantize operations went away.
    """
    seen: dict[tuple, torch.fx.Node] = {}
    dropped = 0
    for node in list(graph.nodes):
        if node.op != "call_function" or not str(node.target).endswith(f"{_QUANTIZE}.default"):
            continue
        source, parameters = node.args[0], node.args[1:]
        same = seen.get((source, parameters))
        if same is None and str(source.target).endswith(f"{_DEQUANTIZE}.default") and source.args[1:] == parameters:
            same = source.args[0]
        if same is None:
            seen[source, parameters] = node
            continue
        node.replace_all_uses_with(same)
        graph.erase_node(node)
        dropped += 1
    graph.eliminate_dead_code()
    return dropped
