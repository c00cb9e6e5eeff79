"""Constants in few bytes: what a format holds as codes stays codes in the file, and becomes floats where it is loaded.

Casts, lookups and products of constants are computed once, when a runtime loads the file: it then holds and computes
what it would with float constants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compresskit.core.errors import require

from ....quantization.formats.fixed_groups.lookups import Lookup, block_scales, padded_codes
from .graph_passes import FOUR_BIT_OPSET

_WORTH_IT = 1024  # elements of a constant below which nodes take more than they save
_CODED_SCALES = 256  # different scales that stand in a table
_SPARSE_SHARE = 0.8  # of its bytes that a constant may take as bits and values, to be stored so


def stored_codes(graph: Any, lookups: Mapping[str, Lookup], *, opset: int) -> list[str]:
    """Replace float constants by the codes and tables that they come from.

    Args:
        graph: an onnx_ir graph; changed in place.
        lookups: of each constant, by its name; one that torch.onnx has turned is found by its values.
        opset: operator set of the graph.
    Returns:
        names of those replaced.
    """
    done = []
    remaining = {name: lookup for name, lookup in lookups.items() if lookup.codes.numel() >= _WORTH_IT}
    for value in list(graph.initializers.values()):
        made = _Made(graph, f"{value.name}_", opset)
        names, floats = _rebuilt(made, value, remaining)
        if floats is not None:
            _replace(graph, value, made, floats)
            done += names
    return done


def sparse_constants(graph: Any, *, opset: int) -> int:
    """Store float constants with many zeros as one bit an element and the other values, as a bitmap codec does."""
    ir = require("onnx_ir", "onnx")
    changed = 0
    for value in list(graph.initializers.values()):
        if value.dtype != ir.DataType.FLOAT or value.const_value.size < _WORTH_IT or value.is_graph_output():
            continue
        flat = value.const_value.numpy().reshape(-1)
        kept = np.ascontiguousarray(flat).view(np.int32) != 0  # a negative zero is kept
        if 4 * int(kept.sum()) + flat.size // 8 > _SPARSE_SHARE * flat.nbytes:
            continue
        made = _Made(graph, f"{value.name}_", opset)
        bitmap = made.constant("bitmap", np.packbits(kept, bitorder="little").reshape(-1, 1))
        places = made.constant("places", 2 ** np.arange(8, dtype=np.int32).reshape(1, -1))
        # by division: OpenVINO shifts bytes wrongly
        bits = made.op("Div", [made.cast(bitmap, ir.DataType.INT32), places])
        bits = made.op("Mod", [bits, made.constant("two", np.array([2], dtype=np.int32))])
        bits = made.op("Slice", [made.op("Reshape", [bits, made.shape([-1])]), *made.ends(0, flat.size)])
        counted = made.op("CumSum", [bits, made.constant("axis", np.array(0, dtype=np.int64))])
        values = made.constant("values", np.concatenate([np.zeros(1, np.float32), flat[kept]]))
        found = made.op("Gather", [values, made.op("Mul", [counted, bits])])
        _replace(graph, value, made, made.op("Reshape", [found, made.shape(list(value.shape.numpy()))]))
        changed += 1
    return changed


def four_bit_codes(graph: Any, *, opset: int) -> int:
    """Store int8 constants that fit into four bits in four; a cast widens them for kernels of eight."""
    ir = require("onnx_ir", "onnx")
    if opset < FOUR_BIT_OPSET:
        return 0
    changed = 0
    for value in list(graph.initializers.values()):
        if value.dtype != ir.DataType.INT8 or value.const_value.size < _WORTH_IT or value.is_graph_output():
            continue
        if any(node.op_type not in ("Gather", "DequantizeLinear") for node, _ in value.uses()):
            continue
        codes = value.const_value.numpy()
        if codes.min(initial=0) < -8 or codes.max(initial=0) > 7:
            continue
        made = _Made(graph, f"{value.name}_", opset)
        packed = made.constant("int4", codes, ir.DataType.INT4)
        _replace(graph, value, made, made.cast(packed, ir.DataType.INT8))
        changed += 1
    return changed


def equal_constants_once(graph: Any) -> int:
    """Store constants of equal type, shape and content once: tied weights, and layers that were quantized alike."""
    ir = require("onnx_ir", "onnx")
    first: dict[tuple, Any] = {}
    dropped = 0
    for value in list(graph.initializers.values()):
        if value.is_graph_output() or value.is_graph_input():
            continue
        tensor = value.const_value
        key = (tensor.dtype, tuple(tensor.shape), hashlib.sha256(tensor.tobytes()).digest())
        kept = first.setdefault(key, value)
        if kept is not value:
            ir.convenience.replace_all_uses_with(value, kept)
            del graph.initializers[value.name]
            dropped += 1
    return dropped


def _rebuilt(made: _Made, value: Any, lookups: Mapping[str, Lookup]) -> tuple[list[str], Any]:
    """Nodes that make a float constant from codes, and whose codes they are; torch.onnx may have rearranged it."""
    if value.name in lookups:
        return [value.name], _floats(made, lookups[value.name])
    shape = tuple(value.shape.numpy()) if value.shape is not None and value.shape.is_static() else ()
    if len(shape) == 2:
        for name, lookup in lookups.items():
            if tuple(lookup.shape) == shape[::-1] and np.array_equal(
                value.const_value.numpy(), lookup.weights().numpy().T
            ):
                return [name], made.op("Transpose", [_floats(made, lookup)], {"perm": [1, 0]})
    if len(shape) == 3 and shape[0] in (1, 2):
        return _recurrent(made, value.const_value.numpy(), lookups)
    return [], None


def _recurrent(made: _Made, weights: np.ndarray, lookups: Mapping[str, Lookup]) -> tuple[list[str], Any]:
    """The same of weights of an LSTM or GRU, (directions, gates * hidden, inputs)."""
    found = in_gate_order(weights, lookups)
    if found is None:
        return [], None
    axis, parts = made.ints("axis0", [0]), []
    for number, (_, ordered) in enumerate(found):
        parts.append(made.op("Unsqueeze", [_floats(made.of(f"{number}_"), ordered), axis]))
    return [name for name, _ in found], made.op("Concat", parts, {"axis": 0})


def in_gate_order(weights: np.ndarray, lookups: Mapping[str, Lookup]) -> list[tuple[str, Lookup]] | None:
    """Whose codes weights in ONNX's order of gates are, a name and its rows in that order for each direction.

    Args:
        weights: of an LSTM or GRU, (directions, gates * hidden, inputs).
        lookups: of each constant, in PyTorch's order of gates.
    Returns:
        None where a direction is none of them.
    """
    found: list[tuple[str, Lookup]] = []
    for direction in weights:
        fitting = ((name, lookup) for name, lookup in lookups.items() if tuple(lookup.shape) == direction.shape)
        orders = ((name, ordered) for name, lookup in fitting for ordered in _in_gate_orders(lookup))
        same = (pair for pair in orders if np.array_equal(pair[1].weights().numpy(), direction))
        first = next(same, None)
        if first is None:
            return None
        found.append(first)
    return found


def _in_gate_orders(lookup: Lookup) -> Iterator[Lookup]:
    """Rows of gates as ONNX has them: input, output, forget, cell of an LSTM; update, reset, hidden of a GRU."""
    if lookup.blocks == "flat" and lookup.scales is not None:
        return  # a block may lie in two gates
    for order in ((0, 3, 1, 2), (1, 0, 2)):
        rows = lookup.codes.shape[0]
        if rows % len(order):
            continue
        places = torch.arange(rows).reshape(len(order), -1)[list(order)].reshape(-1)
        scales = None if lookup.scales is None else lookup.scales[places]
        yield replace(lookup, codes=lookup.codes[places], scales=scales)


def _floats(made: _Made, lookup: Lookup) -> Any:
    """Nodes from codes to the float constant of the parameter's own shape."""
    ir = require("onnx_ir", "onnx")
    rows, columns = lookup.codes.shape
    codes = padded_codes(lookup)
    integers = lookup.as_integers()
    if integers is not None:  # codes are the levels themselves but for an offset
        values = made.cast(made.small("codes", (codes.to(integers.dtype) + integers).numpy()), ir.DataType.FLOAT)
    else:
        indices = made.cast(made.small("codes", codes.numpy()), ir.DataType.INT32)
        values = made.op("Gather", [made.constant("levels", lookup.levels.float().numpy()), indices])
    scales = block_scales(lookup)
    if scales is not None:
        blocks, width = scales.numel(), codes.numel() // max(scales.numel(), 1)
        values = made.op("Reshape", [values, made.shape([blocks, width])])
        values = made.op("Mul", [values, _scales(made, scales)])
    if codes.numel() != rows * columns:
        if lookup.blocks == "flat":
            values = made.op("Slice", [made.op("Reshape", [values, made.shape([-1])]), *made.ends(0, rows * columns)])
        else:
            values = made.op("Reshape", [values, made.shape([rows, -1])])
            values = made.op("Slice", [values, *made.ends(1, columns)])
    shape = list(lookup.shape)
    moved = [shape[lookup.axis], *shape[: lookup.axis], *shape[lookup.axis + 1 :]]
    values = made.op("Reshape", [values, made.shape(moved)])
    if lookup.axis:
        order = list(range(1, lookup.axis + 1)) + [0] + list(range(lookup.axis + 1, len(shape)))
        values = made.op("Transpose", [values], {"perm": order})
    return values


def _scales(made: _Made, scales: Tensor) -> Any:
    """Scales as (blocks, 1): in 16 bits where those are exact, as bytes into a table where few differ."""
    ir = require("onnx_ir", "onnx")
    column = scales.float().reshape(-1, 1)
    levels, codes = column.unique(return_inverse=True)
    if levels.numel() <= _CODED_SCALES and column.numel() > 8 * levels.numel():
        indices = made.cast(made.small("scale_codes", codes.numpy().astype(np.uint8)), ir.DataType.INT32)
        return made.op("Gather", [made.constant("scale_levels", levels.numpy()), indices])
    halves = column.half()
    if bool((halves.float() == column).all()):
        return made.cast(made.constant("scale", halves.numpy()), ir.DataType.FLOAT)
    return made.constant("scale", column.numpy())


class _Made:
    """Nodes and constants that stand for one constant."""

    def __init__(self, graph: Any, prefix: str, opset: int):
        self._graph, self._prefix, self._opset = graph, prefix, opset
        self.nodes: list[Any] = []

    def op(self, kind: str, inputs: Sequence[Any], attributes: Mapping[str, Any] | None = None) -> Any:
        ir = require("onnx_ir", "onnx")
        node = ir.node(kind, list(inputs), dict(attributes or {}))
        node.outputs[0].name = f"{self._prefix}made{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def cast(self, value: Any, dtype: Any) -> Any:
        return self.op("Cast", [value], {"to": int(dtype)})

    def small(self, name: str, codes: np.ndarray) -> Any:
        """Codes in four bits where they fit and the operator set has them, else in eight."""
        ir = require("onnx_ir", "onnx")
        low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
        signed = low < 0
        if self._opset >= FOUR_BIT_OPSET and low >= -8 and high <= (7 if signed else 15):
            return self.constant(name, codes, ir.DataType.INT4 if signed else ir.DataType.UINT4)
        return self.constant(name, codes.astype(np.int8 if signed else np.uint8))

    def of(self, prefix: str) -> _Made:
        """The same nodes, under names of a part."""
        part = _Made(self._graph, f"{self._prefix}{prefix}", self._opset)
        part.nodes = self.nodes
        return part

    def shape(self, sizes: Sequence[int]) -> Any:
        return self.ints(f"shape{len(self.nodes)}", sizes)

    def ends(self, axis: int, end: int) -> list[Any]:
        return [self.ints(name, [number]) for name, number in (("starts", 0), ("ends", end), ("axes", axis))]

    def ints(self, name: str, numbers: Sequence[int]) -> Any:
        return self.constant(name, np.array(numbers, dtype=np.int64))

    def constant(self, name: str, array: np.ndarray, dtype: Any = None) -> Any:
        ir = require("onnx_ir", "onnx")
        full = f"{self._prefix}{name}"
        if dtype in (ir.DataType.INT4, ir.DataType.UINT4):
            array = array.astype(np.int8 if dtype == ir.DataType.INT4 else np.uint8)
        tensor = ir.tensor(np.ascontiguousarray(array), dtype=dtype, name=full)
        value = ir.Value(name=full, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value


def _replace(graph: Any, value: Any, made: _Made, new: Any) -> None:
    ir = require("onnx_ir", "onnx")
    new.shape, new.type = value.shape, value.type
    first = next(iter(graph))
    ir.convenience.replace_all_uses_with(value, new)
    name = value.name
    del graph.initializers[name]
    graph.insert_before(first, made.nodes)
