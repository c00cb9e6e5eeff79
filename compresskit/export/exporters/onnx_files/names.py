"""Names in an ONNX graph that a stranger understands, and nothing in it of the machine that wrote it."""

from __future__ import annotations

import re
from typing import Any

import torch

from compresskit.core.errors import require

from ..export_program import AXES
from ..output_names import input_names, output_names
from ..with_past import dotted

#: which layers a node came from, which per-layer times are read by; all else that torch.onnx notes is left out
_KEPT_NOTES = ("pkg.torch.onnx.name_scopes",)
_SYMBOL = re.compile(r"\b[su]\d+\b")


def name_interface(graph: Any, program: torch.export.ExportedProgram) -> None:
    """Name a graph's inputs by the parameters of forward, its outputs by their keys, its dynamic dimensions by meaning.

    Args:
        graph: an onnx_ir graph that torch.onnx wrote; changed in place.
        program: what it was written from.
    """
    ir = require("onnx_ir", "onnx")
    inputs = [dotted(name) for name in input_names(program)]
    if len(inputs) == len(graph.inputs):
        for value, name in zip(list(graph.inputs), inputs, strict=True):
            _rename(graph, value, name)
    taken = {value.name for value in graph.inputs}
    names = output_names(program)
    for place, value in enumerate(list(graph.outputs)):
        if len(names) != len(graph.outputs):
            break
        if value.is_graph_input() or value.is_initializer() or value in list(graph.outputs)[:place]:
            copy = ir.node("Identity", [value])
            copy.outputs[0].shape, copy.outputs[0].type = value.shape, value.type
            graph.append(copy)
            graph.outputs[place] = value = copy.outputs[0]
        name = names[place]
        while name in taken:  # an input of that name
            name = f"{name}_out"
        taken.add(name)
        _rename(graph, value, name)
    name_dimensions(graph, _dimension_names(program))


def name_dimensions(graph: Any, names: dict[str, str]) -> None:
    """Give symbolic dimensions other names wherever they stand, in products and sums as well."""
    ir = require("onnx_ir", "onnx")
    if not names:
        return

    def renamed(dimension: Any) -> Any:
        text = getattr(dimension, "value", None)
        if not isinstance(dimension, ir.SymbolicDim) or not text:
            return dimension
        return ir.SymbolicDim(_SYMBOL.sub(lambda match: names.get(match[0], match[0]), str(text)))

    for value in _values(graph):
        if value.shape is not None and any(isinstance(dimension, ir.SymbolicDim) for dimension in value.shape):
            value.shape = ir.Shape([renamed(dimension) for dimension in value.shape])


def leave_no_traces(model: Any) -> None:
    """Take out what torch.onnx noted of the source: stack traces, paths of files, classes, the traced operations."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.metadata_props.clear()
        graph.doc_string = None
        for node in _nodes(graph):
            kept = {key: node.metadata_props[key] for key in _KEPT_NOTES if key in node.metadata_props}
            node.metadata_props.clear()
            node.metadata_props.update(kept)
            node.doc_string = None
        for value in _values(graph):
            value.metadata_props.clear()
            value.doc_string = None
            if value.const_value is not None:
                raw: Any = getattr(value.const_value, "raw", None)
                noted: Any = raw if hasattr(raw, "doc_string") else value.const_value  # a protocol buffer holds its own
                noted.doc_string = ""
                value.const_value.metadata_props.clear()
    for function in model.functions.values():
        function.metadata_props.clear()
        function.doc_string = None
    model.metadata_props.clear()
    model.doc_string = None


def _dimension_names(program: torch.export.ExportedProgram) -> dict[str, str]:
    """Symbol in a program -> what it is called in the file: one name for each meaning, numbered where sizes differ."""
    found: dict[str, str] = {}
    sizes: dict[str, list[int]] = {}
    for node in program.graph.nodes:
        for axis, name in node.meta.get(AXES, {}).items():
            size = node.meta["val"].shape[axis]
            if not isinstance(size, torch.SymInt) or not _SYMBOL.fullmatch(str(size)) or str(size) in found:
                continue
            known = sizes.setdefault(name, [])
            traced_at = int(str(size.node.hint))
            if traced_at not in known:
                known.append(traced_at)
            number = known.index(traced_at) + 1
            found[str(size)] = name if number == 1 else f"{name}_{number}"
    return found


def _rename(graph: Any, value: Any, name: str) -> None:
    """Name a value; another one of that name gets a new one."""
    if value.name == name:
        return
    names = {other.name: other for other in _values(graph)}
    if name in names:
        spare = f"{name}_inner"
        while spare in names:
            spare += "_"
        other = names[name]
        if other.is_initializer():
            constant = other.const_value
            del graph.initializers[name]
            other.name = spare
            if constant is not None:
                constant.name = spare
            graph.initializers[spare] = other
        else:
            other.name = spare
    value.name = name


def _nodes(graph: Any) -> list[Any]:
    """All nodes, those of branches and loops as well."""
    return list(graph.all_nodes())


def _values(graph: Any) -> list[Any]:
    """Inputs, constants, and what nodes make, in inner graphs as well."""
    found = [*graph.inputs, *graph.initializers.values()]
    for node in _nodes(graph):
        found += node.outputs
        for inner in _inner_graphs(node):
            found += [*inner.inputs, *inner.initializers.values()]
    return found


def _inner_graphs(node: Any) -> list[Any]:
    ir = require("onnx_ir", "onnx")
    found = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found
