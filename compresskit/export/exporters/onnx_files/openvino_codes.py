"""Quantizers that OpenVINO gains nothing from: each is an operator of its own there, or a rounding too many.

Each pass takes an onnx_ir graph, changes it in place, and returns how many places it changed.
"""

from __future__ import annotations

from typing import Any

from .activations import LAYERS, MOVING, constant_range, leave_in_float, moves_values, own_quantizer, quantizer_range

#: operators that OpenVINO computes from codes, beside those that only move them
_FROM_CODES = (*MOVING, "Concat", "AveragePool", "GlobalAveragePool", "ReduceMean", "Relu", "Clip")


def finish(graph: Any) -> None:
    """Run all passes over a graph that is going to OpenVINO; after those over activation functions."""
    codes_moved_as_they_are(graph)
    parts_rounded_once(graph)
    floats_at_the_end(graph)


def codes_moved_as_they_are(graph: Any) -> int:
    """Drop quantizers of values that were dequantized with the same range and only moved since.

    Nothing changes. OpenVINO moves codes by itself, and would quantize them once more.
    """
    return _drop(graph, lambda quantize, dequantize: _levels(quantize.inputs[0]) == quantizer_range(quantize))


def parts_rounded_once(graph: Any) -> int:
    """Drop quantizers of parts that are only joined and then quantized with the range of the whole.

    OpenVINO quantizes each part with the range of the whole where it is computed; with codes of its own it is rounded
    twice.
    """
    return _drop(graph, lambda quantize, dequantize: _is_part(dequantize.outputs[0]))


def floats_at_the_end(graph: Any) -> int:
    """Drop quantizers whose codes no layer reads and nothing behind them is quantized: those of a model's outputs.

    A layer returns floats at no cost, and what stands between it and the output computes in float either way.
    """
    return _drop(graph, lambda quantize, dequantize: not _computed_from_codes(dequantize.outputs[0]))


def _drop(graph: Any, needless: Any) -> int:
    """Drop pairs of quantizers of which a condition holds."""
    changed = 0
    for node in list(graph):
        quantize = own_quantizer(node)
        if quantize is None or node.outputs[0].is_graph_output() or quantizer_range(quantize) is None:
            continue
        if needless(quantize, node):
            leave_in_float(graph, quantize, node)
            changed += 1
    return changed


def _levels(value: Any) -> tuple[float, int] | None:
    """The scale and zero point on whose levels a tensor's values lie, as it holds nothing but moved codes."""
    maker = value.producer()
    if maker is None or maker.op_type == "DequantizeLinear":
        return constant_range(value)
    if maker.op_type == "Concat":
        found = {_levels(part) for part in maker.inputs}
        return found.pop() if len(found) == 1 else None
    return _levels(maker.inputs[0]) if maker.op_type in MOVING and moves_values(maker) else None


def _is_part(value: Any) -> bool:
    """Whether a tensor is joined with others, and all that reads the whole quantizes it."""
    users = [user for user, _ in value.uses()]
    whole = [reader for user in users for reader, _ in user.outputs[0].uses()]
    joined = bool(users) and all(user.op_type == "Concat" for user in users)
    return joined and bool(whole) and all(reader.op_type == "QuantizeLinear" for reader in whole)


def _computed_from_codes(value: Any) -> bool:
    """Whether a layer takes a tensor in, moved or joined, or anything that is made of it is quantized."""
    queue, seen = [(value, True)], {value}
    for found, codes in queue:
        for user, _ in found.uses():
            if user.op_type == "QuantizeLinear" or codes and user.op_type in LAYERS:
                return True
            reached = [output for output in user.outputs if output not in seen]
            seen.update(reached)
            queue += [(output, codes and user.op_type in _FROM_CODES) for output in reached]
    return False
