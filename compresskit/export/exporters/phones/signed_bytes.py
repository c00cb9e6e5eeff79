"""Graphs for runtimes of phones, which compute in signed bytes."""

from __future__ import annotations

from typing import Any

import torch

from ..lowered_layers import decomposed

_BYTE_MIDDLE = 128
#: what gives only values that it was given; XNNPACK's kernels for bytes keep the range of their input
_SELECTING = ("max_pool2d", "view", "reshape", "flatten", "permute", "transpose", "slice", "squeeze", "unsqueeze")


def signed_bytes(graph: torch.fx.Graph) -> None:
    """Move quantizers of activations from 0..255 to -128..127."""
    static = _static()
    dynamic = (decomposed().quantize_per_tensor.tensor, decomposed().dequantize_per_tensor.tensor)
    for node in graph.nodes:
        if node.target in (*static, *dynamic) and node.args[5] is torch.uint8:
            values, scale, zero_point, low, high, _ = node.args
            moved = zero_point - _BYTE_MIDDLE if node.target in static else zero_point
            node.args = (values, scale, moved, low - _BYTE_MIDDLE, high - _BYTE_MIDDLE, torch.int8)
        elif node.target is decomposed().choose_qparams.tensor and node.args[4] is torch.uint8:
            values, low, high, smallest, _ = node.args
            node.args = (values, low - _BYTE_MIDDLE, high - _BYTE_MIDDLE, smallest, torch.int8)


def same_range_around_selections(graph: torch.fx.Graph) -> None:
    """Quantize what an operation selects from bytes with the range that they have, before another range is taken.

    That changes no value.
    """
    quantize, dequantize = _static()
    for node in list(graph.nodes):
        opened: Any = node.args[0] if operator_name(node) in _SELECTING else None
        if not calls(opened, dequantize) or len(node.users) != 1:
            continue
        (user,) = node.users
        if user.target is not quantize or user.args[1:] == opened.args[1:]:
            continue
        user.replace_input_with(node, _round_trip(graph, user, node, opened.args[1:], user.meta["val"]))


def same_range_before_joining(graph: torch.fx.Graph) -> None:
    """Quantize the parts of a concatenation with the range of the whole, as XNNPACK's kernels for bytes want it.

    That changes no value: the whole is quantized with that range anyway.
    """
    quantize, dequantize = _static()
    for node in list(graph.nodes):
        parts: Any = node.args[0] if operator_name(node) in ("cat", "concat") else ()
        ranges = {user.args[1:] if calls(user, quantize) else None for user in node.users}
        if not parts or None in ranges or len(ranges) != 1 or not all(calls(part, dequantize) for part in parts):
            continue
        limits: Any = ranges.pop()
        joined = [
            part if part.args[1:] == limits else _round_trip(graph, node, part, limits, part.args[0].meta["val"])
            for part in parts
        ]
        node.args = (joined, *node.args[1:])


def _round_trip(
    graph: torch.fx.Graph, before: torch.fx.Node, value: Any, limits: Any, codes_like: Any
) -> torch.fx.Node:
    """A tensor quantized and dequantized in front of a node; `codes_like` describes codes of its shape."""
    quantize, dequantize = _static()
    with graph.inserting_before(before):
        codes = graph.call_function(quantize, (value, *limits))
        back = graph.call_function(dequantize, (codes, *limits))
    codes.meta["val"], back.meta["val"] = codes_like, value.meta["val"]
    return back


def _static() -> tuple[Any, Any]:
    """PyTorch's quantizer and dequantizer of stored ranges."""
    return decomposed().quantize_per_tensor.default, decomposed().dequantize_per_tensor.default


def one_dequantizer_a_reader(graph: torch.fx.Graph) -> None:
    """Dequantize codes once for each operation that reads them: parts of a graph that share one depend on each other.

    That changes no value.
    """
    dequantizers = [getattr(decomposed(), f"dequantize_per_{kind}").default for kind in ("tensor", "channel")]
    for node in list(graph.nodes):
        if node.target not in dequantizers:
            continue
        for user in list(node.users)[1:]:
            with graph.inserting_before(user):
                again = graph.node_copy(node)
            user.replace_input_with(node, again)


def calls(node: Any, target: Any) -> bool:
    return getattr(node, "target", None) is target


def operator_name(node: torch.fx.Node) -> str:
    """`aten.conv2d.default` -> `conv2d`; "" for what is no call."""
    return str(node.target).split(".")[1] if node.op == "call_function" and str(node.target).count(".") > 1 else ""
