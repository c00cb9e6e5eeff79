"""The nodes of an ONNX file that multiply and sum: the layer each belongs to, its MACs, whether it reads integers."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.errors import require

#: operators that multiply and sum, and table look-ups of weights
COMPUTING = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "Attention", "DynamicQuantizeLSTM",
    "MatMulInteger", "ConvInteger",
)  # fmt: skip
#: those of them that read nothing else than integers, or make them of what they read
INTEGER = ("DynamicQuantizeLSTM", "MatMulInteger", "ConvInteger")
_SCOPES = "pkg.torch.onnx.name_scopes"  # torch.onnx notes here which modules a node was in, outermost first
_MADE_UP = re.compile(
    r"(_token_\d+|_nchwc|_nhwc|/WithoutBiases|/Dequantization\w+)+$"
)  # what runtimes append to names of nodes
#: operators that pass codes on as they are
_PASSING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Expand", "Identity")


@dataclass(frozen=True)
class ComputeNode:
    """One node of the file.

    Attributes:
        name: of the node.
        operation: its operator.
        output: what it writes.
        layer: the innermost module that it was in, "" for the model itself.
        macs: multiply-accumulates of one forward; 0 of a look-up.
        floats: what it reads or writes that is not quantized: "input", "weight", "second input", "output".
        spatial: dimensions of a convolution.
        table: the number type of the table of a look-up, as ONNX names it ("int8", "float").
    """

    name: str
    operation: str
    output: str
    layer: str
    macs: int
    floats: tuple[str, ...]
    spatial: int = 0
    table: str = ""


def compute_nodes(path: Path, inputs: dict[str, Tensor]) -> list[ComputeNode]:
    """The nodes that multiply and sum, and look-ups in quantized tables, in the file's order.

    Args:
        path: an ONNX file.
        inputs: tensors by the graph's input names, whose sizes the MACs are for.
    """
    onnx = require("onnx", "onnx")
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    shapes = _shapes(model, inputs)
    makers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {entry.name for entry in graph.initializer}
    types = {entry.name: onnx.TensorProto.DataType.Name(entry.data_type) for entry in graph.initializer}
    found = []
    for node in graph.node:
        table = _root(node.input[0], makers) if node.op_type == "Gather" else ""
        looked_up = table in constants and len(shapes.get(table, ())) == 2 and shapes[table][1] > 1
        if node.op_type not in COMPUTING and not looked_up:
            continue
        weight = shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
        found.append(
            ComputeNode(
                node.name,
                node.op_type,
                node.output[0],
                layer_of(node),
                0 if looked_up else _macs(node, shapes),
                _floats_at(node, makers, readers, constants),
                max(len(weight) - 2, 0) if node.op_type.startswith("Conv") else 0,
                str(types[table]).lower() if looked_up else "",
            )
        )
    return found


def layer_of(node: Any, names: Iterable[str] | None = None) -> str:
    """The innermost module that a node was in when torch exported it, of those named; "" where it was in none."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    # the last scope is the node's own name
    modules = ast.literal_eval(scopes)[:-1]
    return next((scope for scope in reversed(modules) if scope and (names is None or scope in names)), "")


def origins(path: Path, ran: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """From nodes that a runtime ran to the nodes of the file that they compute.

    A node goes by its own name; one that the runtime merged with what follows goes by what it writes instead, and is
    then the computing node nearest before that output that did not run under its own name.

    Args:
        path: the ONNX file that was run.
        ran: names of the nodes that the runtime ran, each with the names of what it writes, or of the nodes that it
            was merged from, as far as they are known.
    """
    graph = require("onnx", "onnx").load(path, load_external_data=False).graph
    by_node = {node.name: node for node in graph.node if node.name}
    makers = {output: node for node in graph.node for output in node.output}
    found = {name: by_node[plain] for name in ran if (plain := plain_name(name)) in by_node}
    claimed = {node.name for node in found.values() if node.op_type in COMPUTING}
    for name, outputs in ran.items():
        if name in found and found[name].op_type in COMPUTING:
            continue
        ends = [plain_name(end) for end in (name, *outputs)]
        queue = [makers[end] if end in makers else by_node[end] for end in ends if end in makers or end in by_node]
        for node in queue:
            if node.op_type in COMPUTING:
                if node.name not in claimed:
                    claimed.add(node.name)
                    found[name] = node
                    break
                continue
            queue += [made for value in node.input if (made := makers.get(value)) is not None and made not in queue]
    return found


def plain_name(name: str) -> str:
    """A node's name without what runtimes append to it."""
    return _MADE_UP.sub("", name)


def _floats_at(node: Any, makers: Mapping[str, Any], readers: Mapping[str, list[Any]], constants: set[str]) -> tuple:
    """What of a node is not quantized in the file."""
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return ("input", "weight")
    if node.op_type == "Gather" or node.op_type in INTEGER:
        return ()
    found = []
    for place, value in enumerate(node.input[:2]):
        if not _dequantized(value, makers):
            constant = _root(value, makers) in constants
            found.append("weight" if constant else "input" if place == 0 else "second input")
    users = readers.get(node.output[0], [])
    while len(users) == 1 and users[0].op_type in ("Relu", "Clip"):
        users = readers.get(users[0].output[0], [])
    if not users or any(user.op_type != "QuantizeLinear" for user in users):
        found.append("output")
    return tuple(found)


def _dequantized(value: str, makers: Mapping[str, Any]) -> bool:
    maker = makers.get(value)
    while maker is not None and maker.op_type in _PASSING:
        maker = makers.get(maker.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear"


def _root(value: str, makers: Mapping[str, Any]) -> str:
    """What a tensor was made of by moving, quantizing and dequantizing alone."""
    while (maker := makers.get(value)) is not None:
        if maker.op_type not in (*_PASSING, "DequantizeLinear", "QuantizeLinear", "Cast"):
            break
        value = maker.input[0]
    return value


def _shapes(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors for inputs of these sizes: what ONNX itself infers, then what a run of the file shows."""
    onnx = require("onnx", "onnx")
    for entry in model.graph.input:
        if entry.name not in inputs:
            continue
        for dimension, size in zip(entry.type.tensor_type.shape.dim, inputs[entry.name].shape, strict=False):
            dimension.dim_value = size
    for entry in (*model.graph.value_info, *model.graph.output):  # sizes that follow from the inputs'
        for dimension in entry.type.tensor_type.shape.dim:
            if dimension.HasField("dim_param"):
                dimension.Clear()
    own = [place for place, node in enumerate(model.graph.node) if node.op_type == "DynamicQuantizeLSTM"]
    known = model
    if own:  # ONNX itself knows the float one, whose results have the same shapes
        known = copy.deepcopy(model)
        for place in own:
            node = known.graph.node[place]
            node.op_type, node.domain = "LSTM", ""
            del node.input[8:]
    inferred = onnx.shape_inference.infer_shapes(known, data_prop=True).graph
    found = {entry.name: tuple(entry.dims) for entry in inferred.initializer}
    for entry in (*inferred.value_info, *inferred.output, *inferred.input):
        found[entry.name] = tuple(dimension.dim_value for dimension in entry.type.tensor_type.shape.dim)
    return found | _shapes_of_a_run(model, inputs, _unknown(model.graph, found))


def _unknown(graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What computing nodes read first or write whose size is not known."""
    names = [name for node in graph.node if node.op_type in COMPUTING for name in (node.input[0], node.output[0])]
    return [name for name in dict.fromkeys(names) if 0 in shapes.get(name, (0,))]


def _shapes_of_a_run(model: Any, inputs: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors as the file computes them: sizes behind slices and masks are often known by a run alone.

    None where there is no ONNX Runtime, or constants lie in a file of their own.
    """
    own_file = any(entry.external_data for entry in model.graph.initializer)
    if not names or own_file or find_spec("onnxruntime") is None:
        return {}
    runtime, model = require("onnxruntime", "onnx"), copy.deepcopy(model)
    returned = {entry.name for entry in model.graph.output}
    given = {entry.name for entry in model.graph.input}
    model.graph.output.extend(type(model.graph.input[0])(name=name) for name in names if name not in returned | given)
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 4
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    values = session.run([*names], {name: inputs[name].numpy() for name in given if name in inputs})
    return {name: tuple(value.shape) for name, value in zip(names, values, strict=True)}


def _macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """MACs of one node; 0 where a size is not known."""
    given = [shapes.get(name, ()) for name in node.input]
    output = prod(shapes.get(node.output[0], (0,)))
    if node.op_type in ("Conv", "ConvInteger"):
        return output * prod(given[1][1:])
    if node.op_type == "ConvTranspose":
        return prod(given[0]) * prod(given[1][1:])
    if node.op_type in ("MatMul", "Gemm", "MatMulInteger"):
        turned = any(entry.name == "transA" and entry.i for entry in node.attribute)
        return output * (given[0][0 if turned else -1] if given[0] else 0)
    if node.op_type in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"):
        steps_and_batch = prod(given[0][:2])
        return steps_and_batch * (prod(given[1]) + prod(given[2]))
    if node.op_type == "Einsum":
        equation = next(entry.s.decode() for entry in node.attribute if entry.name == "equation")
        letters = [part.strip() for part in equation.partition("->")[0].split(",")]
        sizes = {
            letter: size
            for part, shape in zip(letters, given, strict=False)
            for letter, size in zip(part, shape, strict=False)
        }
        return prod(sizes.values()) if len(letters) > 1 else 0
    if node.op_type == "Attention":  # the products of queries with keys and of probabilities with values
        return 2 * prod(given[0]) * (given[1][-2] if len(given[1]) > 1 else 0)
    return 0
