"""What torch.compile makes of an exported model's layers on x86: oneDNN's integer kernels where torchao places them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ...analysis.measure.macs import operation_macs
from .compute_nodes import ComputeNode
from .kernels import Kernel


def inductor_nodes(program: fx.GraphModule) -> list[tuple[ComputeNode, Kernel]]:
    """The nodes of a lowered program that multiply and sum, with what computes them.

    Args:
        program: as `torchao.quantization.pt2e.lowering` left it; inductor's own passes change no number type.
    """
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target.name()
        in_integers = name.startswith("onednn::q") or "int_mm" in name
        macs = _onednn_macs(node) if in_integers else _macs(node)
        if not macs:
            continue
        kernel = Kernel(name, "int8" if in_integers else "float32")
        floats = () if in_integers else ("input",)
        found.append((ComputeNode(node.name, name.split("::")[-1], node.name, _layer(node), macs, floats), kernel))
    return found


def _layer(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0].removeprefix("L['self'].") if stack else ""


def _values(argument: Any) -> Any:
    return fx.map_arg(argument, lambda node: node.meta.get("val"))


def _macs(node: fx.Node) -> int:
    output = node.meta.get("val")
    if output is None:
        return 0
    try:
        return operation_macs(node.target, _values(node.args), dict(_values(node.kwargs)), output)
    except (AttributeError, TypeError):  # an operand without a recorded shape
        return 0


def _onednn_macs(node: fx.Node) -> int:
    """MACs of an integer kernel: the elements of its output times what each sums."""
    output = node.meta.get("val")
    weights = [value for value in map(_values, node.all_input_nodes) if isinstance(value, Tensor)]
    if not isinstance(output, Tensor) or len(weights) < 2:
        return 0
    weight = max(weights[1:], key=lambda tensor: (tensor.dim() >= 2, tensor.numel()))
    return int(output.numel()) * weight.numel() // max(int(output.shape[1 if output.dim() == 4 else -1]), 1)
