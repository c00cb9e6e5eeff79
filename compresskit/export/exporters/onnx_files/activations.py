"""Activation functions between quantized layers, in the form that the runtime at hand computes in integers.

ONNX Runtime multiplies and adds codes, and looks sigmoids up in a table; it has no operator for x * sigmoid(x), so its
parts are quantized. OpenVINO computes an activation with the layer before it, as long as nothing is quantized between.
Each pass takes an onnx_ir graph, changes it in place, and returns how many places it changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compresskit.core.errors import require

from .graph_passes import initializer, replace_node

_CODES = 255  # steps of a byte
_GATES = ("Sigmoid", "HardSigmoid")
#: functions of one tensor that OpenVINO computes with the convolution or product before them
_ACTIVATIONS = (*_GATES, "HardSwish", "Gelu", "Elu", "Tanh", "Mish", "Softplus", "LeakyRelu", "PRelu", "Clip", "Relu")
#: operators that give back values of their first input
MOVING = (
    "MaxPool", "Split", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Resize", "Gather",
    "Expand", "DepthToSpace", "SpaceToDepth",
)  # fmt: skip
LAYERS = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def finish(graph: Any, runtime: str) -> None:
    """Run the passes of a runtime over a graph that torch.onnx wrote.

    Args:
        graph: an onnx_ir graph; changed in place.
        runtime: a row of RUNTIMES.
    """
    if runtime == "openvino":
        floats_with_dynamic_ranges(graph)
        floats_plus_constants(graph)
        fused_activations(graph)
        return
    written_out_swish(graph)
    quantized_gates(graph)
    added_hard_sigmoids(graph)
    moved_codes(graph)


def written_out_swish(graph: Any) -> int:
    """Write hard swish of codes as the product that it is."""
    ir = require("onnx_ir", "onnx")
    changed = 0
    for node in list(graph):
        if node.op_type != "HardSwish" or constant_range(node.inputs[0]) is None:
            continue
        gate = ir.node("HardSigmoid", [node.inputs[0]], {"alpha": 1 / 6, "beta": 0.5})
        product = ir.node("Mul", [node.inputs[0], gate.outputs[0]])
        gate.outputs[0].name = f"{node.outputs[0].name}_gate"
        _replace(graph, node, [gate, product])
        changed += 1
    return changed


def moved_codes(graph: Any) -> int:
    """Quantize again, to the same codes, what moves between codes: runtimes then move the codes themselves.

    Values that come from a dequantizer and are only moved lie on its levels, so that nothing changes.
    """
    ir = require("onnx_ir", "onnx")
    changed = 0
    for node in list(graph):
        if node.op_type not in MOVING or constant_range(node.inputs[0]) is None or not moves_values(node):
            continue
        given = list(node.inputs[0].producer().inputs[1:3])
        for output in node.outputs:
            uses = [use for use in output.uses() if not _requantizes(use[0], given)]
            if not uses or output.is_graph_output():
                continue
            quantize = ir.node("QuantizeLinear", [output, *given])
            dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *given])
            for number, made in enumerate((quantize, dequantize)):
                made.outputs[0].name = f"{output.name}_moved{number}"
            same = [user for user, _ in output.uses() if user is not quantize and _requantizes(user, given)]
            for user, place in uses:
                user.replace_input_with(place, dequantize.outputs[0])
            graph.insert_after(node, [quantize, dequantize])
            for user in same:  # runtimes want one quantizer a tensor
                ir.convenience.replace_all_uses_with(user.outputs[0], quantize.outputs[0])
                graph.remove(user, safe=True)
            changed += 1
    return changed


def moves_values(node: Any) -> bool:
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type != "MaxPool" or len(node.outputs) == 1


def _requantizes(node: Any, given: list[Any]) -> bool:
    """Whether a node quantizes with these very constants, or what is equal to them."""
    numbers = _quantizer(node)
    return numbers is not None and numbers == tuple(value.const_value.numpy().item() for value in given)


def quantized_gates(graph: Any) -> int:
    """Quantize sigmoids of codes that multiply other codes: they lie between 0 and 1, so no calibration is needed.

    The products of x * sigmoid(x) and x * hardsigmoid(x) are then computed in integers, too.
    """
    changed = 0
    for node in list(graph):
        if node.op_type not in _GATES or constant_range(node.inputs[0]) is None:
            continue
        gate, uses = node.outputs[0], list(node.outputs[0].uses())
        if not uses or not all(_is_product_of_codes(user, gate) for user, _ in uses):
            continue
        names = [_scalar(graph, f"{gate.name}_{part}", value) for part, value in _unit_interval()]
        ir = require("onnx_ir", "onnx")
        quantize = ir.node("QuantizeLinear", [gate, *names])
        dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *names])
        for number, made in enumerate((quantize, dequantize)):
            made.outputs[0].name = f"{gate.name}_codes{number}"
        for user, place in uses:
            user.replace_input_with(place, dequantize.outputs[0])
        graph.insert_after(node, [quantize, dequantize])
        changed += 1
    return changed


def added_hard_sigmoids(graph: Any) -> int:
    """Write hard sigmoids between codes as additions, which have integer kernels.

    max(0, min(1, alpha x + beta)) is the codes of x with alpha times their scale, plus beta, where the codes that are
    written end at 0 and at 1 or before: their limits cut what the function cuts.
    """
    ir = require("onnx_ir", "onnx")
    changed = 0
    for node in list(graph):
        source = constant_range(node.inputs[0]) if node.op_type == "HardSigmoid" else None
        if source is None:
            continue
        users = [user for user, _ in node.outputs[0].uses()]
        targets = [_quantizer(user) for user in users]
        if not users or any(target is None or target[1] != 0 or target[0] * _CODES > 1.0001 for target in targets):
            continue
        alpha, beta = (node.attributes.get_float(*given) for given in (("alpha", 0.2), ("beta", 0.5)))
        codes, name = node.inputs[0].producer().inputs[0], node.outputs[0].name
        zero_point = node.inputs[0].producer().inputs[2]
        scaled = _scalar(graph, f"{name}_alpha", np.float32(source[0] * alpha))
        first = ir.node("DequantizeLinear", [codes, scaled, zero_point])
        shift = [_scalar(graph, f"{name}_beta_{part}", value) for part, value in _byte_of(beta)]
        second = ir.node("DequantizeLinear", shift)
        total = ir.node("Add", [first.outputs[0], second.outputs[0]])
        for number, made in enumerate((first, second)):
            made.outputs[0].name = f"{name}_part{number}"
        _replace(graph, node, [first, second, total])
        changed += 1
    return changed


def fused_activations(graph: Any) -> int:
    """Drop quantizers between a layer and its activation where what the activation makes is quantized again."""
    changed = 0
    for node in list(graph):
        quantize = own_quantizer(node)
        if quantize is None or len(quantize.inputs[0].uses()) != 1:
            continue
        maker = quantize.inputs[0].producer()
        if maker is not None and maker.op_type in LAYERS and _ends_quantized(node.outputs[0]):
            leave_in_float(graph, quantize, node)
            changed += 1
    return changed


def floats_with_dynamic_ranges(graph: Any) -> int:
    """Leave activations in float whose range would be found as the model runs: OpenVINO has no kernels for that."""
    ir = require("onnx_ir", "onnx")
    changed = 0
    for node in list(graph):
        maker = node.inputs[1].producer() if node.op_type == "DequantizeLinear" else None
        quantize = node.inputs[0].producer() if maker is not None else None
        found = maker is not None and maker.op_type == "DynamicQuantizeLinear"
        if maker is None or quantize is None or not found or node.outputs[0].is_graph_output():
            continue
        ir.convenience.replace_all_uses_with(node.outputs[0], quantize.inputs[0])
        graph.remove(node, safe=True)
        for own in dict.fromkeys([quantize, maker]):
            if not any(output.uses() for output in own.outputs):
                graph.remove(own, safe=True)
        changed += 1
    return changed


def floats_plus_constants(graph: Any) -> int:
    """Drop quantizers of what is moved alone until a table of constants is added to it, as to patches of an image.

    No kernel adds those in integers, and OpenVINO 2026.4 gets the sum wrong where such patches are joined with floats
    before: that of ViT-S was 3.7 % off, and its output 25 %.
    """
    changed = 0
    for node in list(graph):
        quantize = own_quantizer(node)
        if quantize is not None and constant_range(node.outputs[0]) is not None and _ends_in_constants(node.outputs[0]):
            leave_in_float(graph, quantize, node)
            changed += 1
    return changed


def own_quantizer(node: Any) -> Any:
    """The QuantizeLinear whose codes a DequantizeLinear alone reads; None where there is none."""
    quantize = node.inputs[0].producer() if node.op_type == "DequantizeLinear" else None
    alone = quantize is not None and quantize.op_type == "QuantizeLinear" and len(quantize.outputs[0].uses()) == 1
    return quantize if alone else None


def leave_in_float(graph: Any, quantize: Any, dequantize: Any) -> None:
    """Drop a pair of quantizers: what reads the second reads what the first does."""
    require("onnx_ir", "onnx").convenience.replace_all_uses_with(dequantize.outputs[0], quantize.inputs[0])
    graph.remove([dequantize, quantize], safe=True)


def _ends_in_constants(value: Any) -> bool:
    """Whether all that reads a tensor, what moves and joins it apart, adds a constant of several numbers."""
    users = [user for user, _ in value.uses()]
    return bool(users) and not value.is_graph_output() and all(_adds_constant(user, value) for user in users)


def _adds_constant(node: Any, value: Any) -> bool:
    if node.op_type in (*MOVING, "Concat"):
        return all(_ends_in_constants(output) for output in node.outputs)
    others = [given.const_value for given in node.inputs if given is not value]
    return node.op_type == "Add" and len(others) == 1 and others[0] is not None and others[0].size > 1


def _ends_quantized(value: Any) -> bool:
    """Whether all readers of a tensor are one activation function, whose result is quantized by all its readers."""
    users = [user for user, _ in value.uses()]
    gates = [user for user in users if user.op_type in _ACTIVATIONS]
    products = [user for user in users if user.op_type == "Mul"]
    if not gates or len(gates) + len(products) != len(users) or value.is_graph_output():
        return False
    ends = [user for gate in gates for user, _ in gate.outputs[0].uses() if user not in products] + products
    made = [gate.outputs[0] for gate in gates if not products] + [product.outputs[0] for product in products]
    if products and any(gate.outputs[0] not in product.inputs for gate in gates for product in products):
        return False
    readers = [user for result in made for user, _ in result.uses()]
    return bool(readers) and bool(ends) and all(reader.op_type == "QuantizeLinear" for reader in readers)


def _is_product_of_codes(node: Any, gate: Any) -> bool:
    """Whether a node multiplies a gate with codes, and its result is quantized."""
    if node.op_type != "Mul":
        return False
    others = [value for value in node.inputs if value is not gate]
    readers = [user for user, _ in node.outputs[0].uses()]
    return (
        len(others) == 1
        and constant_range(others[0]) is not None
        and bool(readers)
        and all(_quantizer(reader) is not None for reader in readers)
    )


def constant_range(value: Any) -> tuple[float, int] | None:
    """The constant scale and zero point of the DequantizeLinear that made a value."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or maker.inputs[0].const_value is not None:
        return None
    return quantizer_range(maker)


def _quantizer(node: Any) -> tuple[float, int] | None:
    """The constant scale and zero point of a QuantizeLinear."""
    return quantizer_range(node) if node.op_type == "QuantizeLinear" else None


def quantizer_range(node: Any) -> tuple[float, int] | None:
    values = [value for value in node.inputs[1:3] if value is not None and value.const_value is not None]
    constants = [value.const_value.numpy().reshape(-1) for value in values]
    if len(constants) < 2 or any(constant.size != 1 for constant in constants):
        return None
    scale, zero_point = (constant[0] for constant in constants)
    return (float(scale), int(zero_point)) if zero_point.dtype == np.uint8 else None


def _replace(graph: Any, node: Any, made: list[Any]) -> None:
    """Put nodes in the place of one, of the same layer."""
    for own in made:
        own.metadata_props.update(node.metadata_props)
    replace_node(graph, node, made)


def _unit_interval() -> list[tuple[str, Any]]:
    return [("scale", np.float32(1 / _CODES)), ("zero_point", np.uint8(0))]


def _byte_of(number: float) -> list[tuple[str, Any]]:
    """A number as the largest code of a scale of its own."""
    return [("code", np.uint8(_CODES)), ("scale", np.float32(number / _CODES)), ("zero_point", np.uint8(0))]


def _scalar(graph: Any, name: str, value: Any) -> Any:
    """A new constant of the graph."""
    return initializer(graph, name, require("onnx_ir", "onnx").tensor(np.asarray(value)))
