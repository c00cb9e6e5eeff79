"""ONNX files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...core.errors import InputError, first_line, require
from ...core.reporting.loggers import quiet_loggers
from ..options import ExportOptions
from .branch_free.replaced import no_deprecations
from .export_program import DESCRIPTION, INTEGER_INPUTS, LOOKUPS
from .onnx_files import activations, constants, graph_passes, names, openvino_codes, recurrent

#: constants beyond this go to a file of their own, NAME.onnx.data: protobuf reads no message of 2 GiB
LARGEST_FILE_BYTES = (2 << 30) - (16 << 20)


def onnx(program: torch.export.ExportedProgram, path: Path, options: ExportOptions) -> list[str]:
    """Write an exported program as ONNX in the operator set that the options name."""
    return export_onnx(program, path, opset=options.opset, runtime=options.chosen_runtime())


def export_onnx(
    program: torch.export.ExportedProgram, path: Path, *, opset: int = 21, runtime: str = "onnxruntime"
) -> list[str]:
    """Write an exported program as ONNX; quantize/dequantize operators become their ONNX namesakes.

    Args:
        program: what to write.
        path: the file.
        opset: its operator set.
        runtime: where it is going to run: activations are quantized as it has kernels for.
    Returns:
        notes on what the operator set does not allow, and on operators that a runtime alone has.
    Raises:
        InputError: if onnx is not installed or an operator has no ONNX form.
    """
    require("onnx", "onnx")
    require("onnxscript", "onnx")
    _fixed_layouts(program.graph)
    try:
        # what requires a gradient makes loops of the graph be traced once more
        with quiet_loggers("onnxscript", "onnx_ir"), no_deprecations(), torch.no_grad():
            graph = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                verbose=False,
                custom_translation_table=graph_passes.translations(opset),
            )
    except Exception as error:
        raise InputError(f"torch.onnx cannot write this model: {first_line(error.__cause__ or error)}") from error
    if graph is None:
        raise InputError("torch.onnx gave no graph of this model")
    notes = graph_passes.finish(graph.model.graph, opset=opset)
    activations.finish(graph.model.graph, runtime)
    if runtime == "openvino":
        openvino_codes.finish(graph.model.graph)
    lookups = program.graph_module.meta.get(LOOKUPS, {})
    if runtime == "onnxruntime" and program.graph_module.meta.get(INTEGER_INPUTS):
        notes += recurrent.integer_lstms(graph.model, lookups)
    constants.stored_codes(graph.model.graph, lookups, opset=opset)
    constants.sparse_constants(graph.model.graph, opset=opset)
    constants.four_bit_codes(graph.model.graph, opset=opset)
    constants.equal_constants_once(graph.model.graph)
    names.name_interface(graph.model.graph, program)
    names.leave_no_traces(graph.model)
    graph.model.metadata_props.update(as_strings(program.graph_module.meta.get(DESCRIPTION, {})))
    held = [value.const_value for value in graph.model.graph.initializers.values()]
    bytes_held = sum(tensor.nbytes for tensor in held if tensor is not None)
    graph.save(str(path), external_data=bytes_held > LARGEST_FILE_BYTES)
    return notes


def _fixed_layouts(graph: torch.fx.Graph) -> None:
    """Copy what attention returns, and that before it is viewed: torch.onnx takes attention apart, and its parts leave
    their result in another order in memory than the program was traced with, which a view may not allow.
    """
    attention = torch.ops.aten.scaled_dot_product_attention.default
    turned = (torch.ops.aten.transpose.int, torch.ops.aten.permute.default)
    for node in list(graph.nodes):
        viewed: Any = node.args[0] if node.target is torch.ops.aten.view.default else None
        source = viewed
        while isinstance(source, torch.fx.Node) and source.target in turned:
            source = source.args[0]
        if getattr(source, "target", None) is attention:
            _copy(graph, viewed, [node])
    for node in list(graph.nodes):
        if node.target is attention:
            _copy(graph, node, list(node.users))


def _copy(graph: torch.fx.Graph, value: torch.fx.Node, users: list[torch.fx.Node]) -> None:
    """Let nodes read a copy of a tensor that lies in order."""
    layout: dict[str, Any] = {"memory_format": torch.contiguous_format}
    with graph.inserting_after(value):
        copied = graph.call_function(torch.ops.aten.clone.default, (value,), layout)
    copied.meta.update(value.meta)
    for user in users:
        user.replace_input_with(value, copied)


def as_strings(description: Mapping[str, Any]) -> dict[str, str]:
    """A description as a file's metadata: strings as they are, all else as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in description.items()}
