"""What a quantized ONNX graph needs so that runtimes keep it in integers, and torch.onnx does not write.

Each pass takes an onnx_ir graph, changes it in place, and returns how many places it changed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compresskit.core.errors import require

_QUANTIZED_WITH_BIAS = ("Conv", "Gemm")
_LARGEST_CODE = 2**31 - 1
#: the first operator set with four-bit types and scales for blocks of columns
FOUR_BIT_OPSET = 21


def finish(graph: Any, *, opset: int) -> list[str]:
    """Run all passes over a graph that torch.onnx wrote.

    Args:
        graph: an onnx_ir graph; changed in place.
        opset: its operator set.
    Returns:
        notes on what the operator set does not allow.
    """
    pooled_means(graph)
    dynamic_quantizers(graph)
    blocked_products(graph)
    integer_biases(graph)
    if opset >= FOUR_BIT_OPSET:
        four_bit_weights(graph)
        return []
    wide = sum(_fits_four_bits(node) for node in graph if node.op_type == "DequantizeLinear")
    reason = f"operator sets below {FOUR_BIT_OPSET} have no four-bit type"
    return [f"weights that would fit into 4 bits take 8 ({wide} of them): {reason}"] if wide else []


def translations(opset: int) -> dict[Any, Any]:
    """What torch.onnx has no form for: ranges that are found while the model runs, and scales of groups of columns."""
    from ..lowered_layers import decomposed

    ir = require("onnx_ir", "onnx")
    script = require("onnxscript", "onnx")
    op = script.opset21 if opset >= FOUR_BIT_OPSET else script.opset18
    short, double, whole, byte = (getattr(ir.DataType, name) for name in ("FLOAT", "DOUBLE", "INT64", "UINT8"))

    def choose_qparams(values, low: int, high: int, smallest: float, dtype: int):
        _, scale, zero_point = op.DynamicQuantizeLinear(values)
        return op.Cast(scale, to=double), op.Cast(zero_point, to=whole)  # the number types of torch's operator

    def quantize(values, scale, zero_point, low: int, high: int, dtype: int):
        return op.QuantizeLinear(values, op.Cast(scale, to=short), op.Cast(zero_point, to=byte))

    def dequantize(codes, scale, zero_point, low: int, high: int, dtype: int, out_dtype: int = -1):
        return op.DequantizeLinear(codes, op.Cast(scale, to=short), op.Cast(zero_point, to=byte))

    def dequantize_groups(
        codes, scale, zero_point, low: int, high: int, dtype: int, group_size: int, out_dtype: int = -1
    ):
        if opset >= FOUR_BIT_OPSET:
            return op.DequantizeLinear(codes, scale, zero_point, axis=1, block_size=group_size)
        rows, groups = scale.shape
        values = op.Cast(op.Reshape(codes, op.Constant(value_ints=[rows, groups, group_size])), to=short)
        last = op.Constant(value_ints=[2])
        if zero_point is not None:
            values = op.Sub(values, op.Cast(op.Unsqueeze(zero_point, last), to=short))
        values = op.Mul(values, op.Unsqueeze(scale, last))
        return op.Reshape(values, op.Constant(value_ints=[rows, groups * group_size]))

    return {
        decomposed().dequantize_per_channel_group.default: dequantize_groups,
        decomposed().choose_qparams.tensor: choose_qparams,
        decomposed().quantize_per_tensor.tensor: quantize,
        decomposed().dequantize_per_tensor.tensor: dequantize,
    }


def dynamic_quantizers(graph: Any) -> int:
    """Quantize with a range found on the way in one operator, as runtimes expect it, and not by casts to and fro."""
    ir = require("onnx_ir", "onnx")
    changed = 0
    for node in list(graph):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 3:
            continue
        scale, zero_point = (_before_casts(value) for value in node.inputs[1:3])
        maker = scale.producer()
        if maker is None or maker.op_type != "DynamicQuantizeLinear":
            continue
        node.replace_input_with(1, scale)
        node.replace_input_with(2, zero_point)
        if node.op_type == "QuantizeLinear" and node.inputs[0] is maker.inputs[0]:
            codes = maker.outputs[0]
            codes.shape, codes.type = node.outputs[0].shape, node.outputs[0].type
            ir.convenience.replace_all_uses_with(node.outputs[0], codes)
            graph.remove(node, safe=True)
        changed += 1
    for node in reversed(list(graph)):
        if node.op_type == "Cast" and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)
    return changed


def _before_casts(value: Any) -> Any:
    while value.producer() is not None and value.producer().op_type == "Cast":
        value = value.producer().inputs[0]
    return value


def integer_biases(graph: Any) -> int:
    """Write the biases of layers with quantized input and weights in int32, with the product of their scales.

    A bias that does not fit into 32 bits at that scale stays in float.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", CVPR 2018, section 2.4, eq. 11.
    """
    ir = require("onnx_ir", "onnx")
    changed = 0
    for node in list(graph):
        scales = _bias_scale(node)
        if scales is None:
            continue
        bias = node.inputs[2].const_value.numpy()
        scale = np.broadcast_to(scales, bias.shape).astype(np.float32)
        codes = np.round(bias.astype(np.float64) / scale)
        if not np.abs(codes).max(initial=0) <= _LARGEST_CODE:
            continue
        name = f"{node.inputs[2].name}_quantized_{changed}"  # layers may share a bias, but not its scale
        integers, steps = (
            initializer(graph, f"{name}{ending}", ir.tensor(array))
            for ending, array in (("", codes.astype(np.int32)), ("_scale", scale))
        )
        dequantize = ir.node("DequantizeLinear", [integers, steps], {"axis": 0})
        dequantize.outputs[0].name = f"{name}_dequantized"
        graph.insert_before(node, dequantize)
        node.replace_input_with(2, dequantize.outputs[0])
        changed += 1
    return changed


def _bias_scale(node: Any) -> np.ndarray | None:
    """Input scale times weight scale, or None where a node's bias cannot be an integer."""
    if node.op_type not in _QUANTIZED_WITH_BIAS or len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    bias = node.inputs[2].const_value
    scales = [_scale_of(value) for value in node.inputs[:2]]
    if bias is None or any(scale is None for scale in scales) or bias.numpy().ndim != 1:
        return None
    if any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return None
    left, right = scales
    if left is None or right is None:
        return None
    product = left.astype(np.float64) * right.astype(np.float64)
    return product if product.size in (1, bias.numpy().size) and left.size == 1 else None


def _scale_of(value: Any) -> np.ndarray | None:
    """The constant scale of the DequantizeLinear that made a value."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or maker.inputs[1].const_value is None:
        return None
    scale = maker.inputs[1].const_value.numpy()
    return scale if scale.ndim <= 1 else None


def pooled_means(graph: Any) -> int:
    """Turn means over all of an image's positions into GlobalAveragePool, which has integer kernels."""
    ir = require("onnx_ir", "onnx")
    changed = 0
    for node in list(graph):
        if node.op_type != "ReduceMean" or not _covers_image(node):
            continue
        source, old = node.inputs[0], node.outputs[0]
        pool = ir.node("GlobalAveragePool", [source])
        made = [pool]
        if not node.attributes.get_int("keepdims", 1):
            axes = initializer(graph, f"{old.name}_axes", ir.tensor(np.array([2, 3], dtype=np.int64)))
            made.append(ir.node("Squeeze", [pool.outputs[0], axes]))
            pool.outputs[0].name = f"{old.name}_pooled"
        replace_node(graph, node, made)
        changed += 1
    return changed


def blocked_products(graph: Any) -> int:
    """Turn group-wise weights of products to (in, out), the form that ONNX Runtime has a four-bit kernel for.

    A Gemm becomes a MatMul and an Add on the way, of three dimensions: those of two are merged to a Gemm again, which
    has no such kernel.
    """
    ir = require("onnx_ir", "onnx")
    changed = 0
    for node in list(graph):
        users = list(node.outputs[0].consumers()) if len(node.outputs) == 1 else []
        if node.op_type != "DequantizeLinear" or not node.attributes.get_int("block_size", 0) or len(users) != 1:
            continue
        user = users[0]
        turned = user.op_type == "Transpose" and user.outputs[0].consumers()
        if not turned and not _is_plain_product(user, node.outputs[0]):
            continue
        inputs = [initializer(graph, f"{v.name}_turned", _turned(v)) if v is not None else None for v in node.inputs]
        attributes = {"axis": 0, "block_size": node.attributes.get_int("block_size")}
        weights = ir.node("DequantizeLinear", inputs, attributes)
        weights.outputs[0].name = f"{node.outputs[0].name}_turned"
        made = [weights]
        if not turned:
            made += _product(graph, user, weights.outputs[0])
        replace_node(graph, user, made)
        graph.remove(node, safe=True)
        changed += 1
    return changed


def _product(graph: Any, gemm: Any, weights: Any) -> list[Any]:
    """Nodes that compute what a Gemm computes, with weights as (in, out)."""
    ir = require("onnx_ir", "onnx")
    axis = initializer(graph, f"{gemm.outputs[0].name}_axis", ir.tensor(np.array([0], dtype=np.int64)))
    made = [ir.node("Unsqueeze", [gemm.inputs[0], axis])]
    made.append(ir.node("MatMul", [made[-1].outputs[0], weights]))
    if len(gemm.inputs) > 2 and gemm.inputs[2] is not None:
        made.append(ir.node("Add", [made[-1].outputs[0], gemm.inputs[2]]))
    made.append(ir.node("Squeeze", [made[-1].outputs[0], axis]))
    for number, node in enumerate(made[:-1]):
        node.outputs[0].name = f"{gemm.outputs[0].name}_part{number}"
    return made


def _turned(value: Any) -> Any:
    ir = require("onnx_ir", "onnx")
    return ir.tensor(np.ascontiguousarray(value.const_value.numpy().T))


def _is_plain_product(node: Any, weights: Any) -> bool:
    """Whether a node computes x W^T + b and nothing else."""
    numbers = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    flags = [node.attributes.get_int(name, 0) for name in ("transA", "transB")]
    return node.op_type == "Gemm" and node.inputs[1] is weights and numbers == [1.0, 1.0] and flags == [0, 1]


def replace_node(graph: Any, node: Any, made: list[Any]) -> None:
    """Put nodes in the place of one; the last one's output takes over its name, shape and readers."""
    ir = require("onnx_ir", "onnx")
    old, new = node.outputs[0], made[-1].outputs[0]
    graph.insert_before(node, made)
    new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    name = old.name
    graph.remove(node, safe=True)
    new.name = name


def _covers_image(node: Any) -> bool:
    """Whether a mean runs over dimensions 2 and 3 of a tensor of four."""
    shape = node.inputs[0].shape
    if shape is None or len(shape) != 4 or len(node.inputs) < 2 or node.inputs[1] is None:
        return False
    axes = node.inputs[1].const_value
    return axes is not None and sorted(int(axis) % 4 for axis in axes.numpy().reshape(-1)) == [2, 3]


def four_bit_weights(graph: Any) -> int:
    """Store dequantized constants whose codes fit into four bits as int4; needs operator set 21.

    Weights of layers whose input is quantized too keep eight bits: integer kernels take no others.
    """
    ir = require("onnx_ir", "onnx")
    changed = 0
    for node in list(graph):
        if node.op_type != "DequantizeLinear" or not _fits_four_bits(node):
            continue
        for position in (0, 2):
            if position >= len(node.inputs) or node.inputs[position] is None:
                continue
            value = node.inputs[position]
            small = ir.tensor(value.const_value.numpy(), dtype=ir.DataType.INT4, name=f"{value.name}_int4")
            new = graph.initializers.get(small.name) or initializer(graph, small.name, small)
            node.replace_input_with(position, new)
        changed += 1
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    return changed


def _fits_four_bits(node: Any) -> bool:
    ir = require("onnx_ir", "onnx")
    if any(_scale_of(value) is not None for user in node.outputs[0].consumers() for value in user.inputs[:1]):
        return False
    values = [value for position, value in enumerate(node.inputs) if position != 1 and value is not None]
    if any(value.const_value is None or value.const_value.dtype != ir.DataType.INT8 for value in values):
        return False
    return all(-8 <= int(edge) <= 7 for value in values for edge in _edges(value.const_value.numpy()))


def _edges(array: np.ndarray) -> tuple[int, int]:
    return (array.min(initial=0), array.max(initial=0)) if math.prod(array.shape) else (0, 0)


def initializer(graph: Any, name: str, tensor: Any) -> Any:
    """A new constant of the graph."""
    ir = require("onnx_ir", "onnx")
    tensor.name = name
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
