"""LSTMs whose weights are bytes as ONNX Runtime's own operator, which quantizes what they read as it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from compresskit.core.errors import require

from ....quantization.formats.fixed_groups.lookups import Lookup
from .constants import in_gate_order
from .graph_passes import initializer

_DOMAIN, _OPERATOR = "com.microsoft", "DynamicQuantizeLSTM"
_INPUTS = 8  # of LSTM; scales and zero points stand behind them
#: what DynamicQuantizeLSTM has no other forms of
_FIXED = {"layout": 0, "input_forget": 0}


class _Codes(NamedTuple):
    """Weights of all directions: codes (directions, inputs, 4 * hidden) int8, scales (directions, 4 * hidden)."""

    codes: np.ndarray
    scales: np.ndarray


def integer_lstms(model: Any, lookups: Mapping[str, Lookup]) -> list[str]:
    """Turn LSTMs into DynamicQuantizeLSTM where both weights are bytes with a scale a row.

    The operator finds the range of the whole input once, and that of the state in every step, 8 bits both.

    Args:
        model: an onnx_ir model; changed in place.
        lookups: of each constant, by its name.
    Returns:
        a note where there are any.
    """
    graph, changed = model.graph, 0
    for node in list(graph):
        if node.op_type != "LSTM" or any(node.attributes.get_int(name, own) != own for name, own in _FIXED.items()):
            continue
        weights = [_coded(value, lookups) for value in node.inputs[1:3]]
        if None in weights or (len(node.inputs) == _INPUTS and node.inputs[-1] is not None):
            continue
        _replace(graph, node, [part for part in weights if part is not None])
        changed += 1
    if not changed:
        return []
    _drop_unread(graph)
    model.opset_imports[_DOMAIN] = 1
    several = "LSTMs quantize their" if changed > 1 else "LSTM quantizes its"
    return [
        f"{changed} {several} input and state in every run ({_OPERATOR}, which ONNX Runtime alone has; for OpenVINO, "
        "export with runtime openvino)"
    ]


def _coded(value: Any, lookups: Mapping[str, Lookup]) -> _Codes | None:
    """Weights of an LSTM as bytes; None where they are not, or a row has several scales."""
    weights = _constant(value)
    found = None if weights is None else in_gate_order(weights, lookups)
    if found is None:
        return None
    codes, scales = [], []
    for _, lookup in found:
        offset, columns = lookup.as_integers(), lookup.codes.shape[1]
        if offset is None or lookup.scales is None or lookup.blocks != "rows" or lookup.block < columns:
            return None
        codes.append((lookup.codes.to(offset.dtype) + offset).numpy().astype(np.int8).T)
        scales.append(lookup.scales.float().reshape(-1).numpy())
    return _Codes(np.stack(codes), np.stack(scales))


def _constant(value: Any) -> np.ndarray | None:
    """A tensor that constants alone make, by being cut and put together."""
    if value is None or value.const_value is not None:
        return None if value is None else value.const_value.numpy()
    node = value.producer()
    given = [_constant(one) for one in node.inputs] if node is not None else []
    arrays = [array for array in given if array is not None]
    if node is None or len(arrays) != len(given):
        return None
    if node.op_type == "Concat":
        return np.concatenate(arrays, node.attributes.get_int("axis"))
    if node.op_type == "Unsqueeze":
        return np.expand_dims(arrays[0], tuple(int(axis) for axis in arrays[1]))
    if node.op_type == "Slice" and len(arrays) == 4:
        parts = [slice(None)] * arrays[0].ndim
        for start, end, axis in zip(*arrays[1:], strict=True):
            parts[int(axis)] = slice(int(start), int(end))
        return arrays[0][tuple(parts)]
    return None


def _replace(graph: Any, node: Any, weights: list[_Codes]) -> None:
    ir = require("onnx_ir", "onnx")
    name = node.outputs[0].name
    tensors, further = [], []
    for letter, part in zip("WR", weights, strict=True):
        tensors.append(initializer(graph, f"{name}_{letter}", ir.tensor(part.codes)))
        further.append(initializer(graph, f"{name}_{letter}_scale", ir.tensor(part.scales)))
        zeros = ir.tensor(np.zeros(part.scales.shape, dtype=np.int8))
        further.append(initializer(graph, f"{name}_{letter}_zero_point", zeros))
    given = list(node.inputs) + [None] * (_INPUTS - len(node.inputs))
    attributes = {own: attribute.value for own, attribute in node.attributes.items() if own != "layout"}
    made = ir.node(
        _OPERATOR, [given[0], *tensors, *given[3:], *further], attributes, domain=_DOMAIN, num_outputs=len(node.outputs)
    )
    made.metadata_props.update(node.metadata_props)
    made.name = node.name
    graph.insert_before(node, [made])
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.shape, new.type, own = old.shape, old.type, old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        old.name, new.name = None, own
    graph.remove(node, safe=True)


def _drop_unread(graph: Any) -> None:
    """Leave out nodes and constants that nothing reads any more."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
