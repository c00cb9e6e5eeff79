"""Quantized models as graphs that runtimes turn into integer kernels.

A copy of the model gets its quantization written out in PyTorch's standard quantize/dequantize operators and is
exported. torch.onnx turns those into QuantizeLinear/DequantizeLinear pairs, which ONNX Runtime and OpenVINO fuse with
the layer between them; inductor's x86 passes recognise the same pairs in a `.pt2`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_flatten, tree_unflatten

from compresskit.core.errors import InputError, first_line
from compresskit.core.reporting.loggers import quiet_loggers
from compresskit.core.tensors.dtypes import cast, copy_in, model_dtype
from compresskit.core.types import Inputs, as_arguments, call
from compresskit.model.example_inputs import with_batch
from compresskit.model.exported import exported_program

from ...quantization.formats.fixed_groups.lookups import lookup_of
from ...quantization.layers.quantized_layer import quantized_layers
from .branch_free.replaced import branch_free
from .dynamic_axes import Axes, fixes_batch
from .lowered_layers import lower, lowers_to_integers
from .output_names import register_dataclasses
from .with_past import without_cache

#: where inputs of an exported program keep the names of their dynamic dimensions: {dimension: name}
AXES = "compresskit_axes"
#: where its graph module keeps what a file says of the model; see `export.description`
DESCRIPTION = "compresskit_description"
#: and where the codes of its float constants: name -> quantization.formats.lookups.Lookup
LOOKUPS = "compresskit_lookups"
#: and whether layers quantize what they read to 8 bits: recurrent ones may do so, too, where a runtime can
INTEGER_INPUTS = "compresskit_integer_inputs"
_CAUSED_BY = re.compile(r"Caused by: \((.*)\)")  # file, line and function, as torch says them
#: the line of the model's code, as torch says it behind an error
_RAISED_AT = re.compile(r'The following call raised this error:\s+File "([^"]+)", (line \d+), in .+\n\s*(.*)')
_RELU = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)
#: operators that mean "the same codes again" when nothing stands between them
_QUANTIZE, _DEQUANTIZE = "quantize_per_tensor", "dequantize_per_tensor"


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
    fixed = axes is None and fixes_batch(lowered, example)
    inputs = with_batch(example, 2) if axes is None and not fixed else example
    args, kwargs = as_arguments(root, inputs)
    tensors, structure = tree_flatten((args, kwargs))
    if axes is None:
        axes = [{0: "batch"} if tensor.dim() and not fixed else {} for tensor in tensors]
    free = tree_unflatten([dict.fromkeys(one, torch.export.Dim.AUTO) or None for one in axes], structure)
    try:
        with torch.no_grad(), without_cache(lowered), branch_free():
            # of another batch size than is traced: a model that keeps the last one would take it for fixed
            free_batch = any(0 in one for one in axes)
            register_dataclasses(call(lowered, with_batch(inputs, 1) if free_batch else inputs))
            shapes = _by_name(lowered, *free)
            # where it fails, torch prints the graph so far
            with quiet_loggers("torch.fx.experimental.symbolic_shapes"), redirect_stderr(StringIO()):
                program = torch.export.export(lowered, args, kwargs, dynamic_shapes=shapes)
    except Exception as error:
        raise InputError(f"torch.export cannot trace this model: {_reason(error)}") from error
    merge_quantizers(program.graph)
    _drop_unread(program)
    program.graph_module.recompile()
    _name_axes(program, axes)
    layers = quantized_layers(root)
    specs = [layer.spec for layer in layers.values()]
    program.graph_module.meta[INTEGER_INPUTS] = any(spec.input != "none" and spec.input_bits == 8 for spec in specs)
    program.graph_module.meta[LOOKUPS] = {
        f"{layer_name}.{name}_lowered".lstrip("."): lookup
        for layer_name, layer in layers.items()
        for name in (() if lowers_to_integers(layer) else layer.spec.parameters)
        if (lookup := lookup_of(layer, name)) is not None
    }
    return program


def _reason(error: Exception) -> str:
    """A line on what cannot be traced, with the place, and the remedy where values of a tensor decide."""
    text = str(error)
    raised, caused = _RAISED_AT.search(text), _CAUSED_BY.search(text)
    place = f" ({caused[1].rpartition('/')[2]})" if caused else ""
    place = f" ({Path(raised[1]).name}, {raised[2]}: {raised[3].strip()})" if raised else place
    if "data-dependent" not in text:
        return f"{first_line(error)}{place}"
    return (
        f"Python decides by values of a tensor{place}, which a graph has no branches for; "
        "in the place of if, len, min or range on such a value use torch.where, shape[0] or a mask"
    )


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


def _begins_at_zero(node: torch.fx.Node) -> bool:
    """Whether a tensor was dequantized from codes whose lowest is that of 0."""
    if not str(node.target).endswith(f"{_DEQUANTIZE}.default"):
        return False
    _, _, zero_point, lowest, *_ = node.args
    return bool(zero_point == lowest)


def merge_quantizers(graph: torch.fx.Graph) -> int:
    """Drop quantizers of tensors that hold the same codes already, and quantize each tensor once.

    A ReLU of codes whose lowest stands for 0 goes away as well: it changes none.

    Returns:
        how many quantize operations went away.
    """
    for node in list(graph.nodes):
        if node.target in _RELU and _begins_at_zero(node.args[0]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
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
