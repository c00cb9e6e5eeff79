"""Which layers of an exported model compute in integers in its runtime, and why the others do not."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..exporters.onnx import onnx
from ..options import ExportOptions
from ..runtimes.exported import Exported, in_order
from .compute_nodes import ComputeNode, compute_nodes
from .inductor_nodes import inductor_nodes
from .kernels import Kernel, onnxruntime_kernels, openvino_kernels

#: runtime -> what computes each node of the ONNX graph there: (file, session, threads)
_EVIDENCE: dict[str, Callable[[Path, Any, int], Mapping[str, Kernel]]] = {
    "onnxruntime": lambda path, session, threads: onnxruntime_kernels(path, threads),
    "openvino": lambda path, session, threads: openvino_kernels(path, session),
}


def layer_rows(exported: Exported, runner: nn.Module, options: ExportOptions) -> list[dict[str, Any]]:
    """A row for each layer that multiplies and sums, and for each look-up; none where the runtime does not tell.

    Args:
        exported: what was written.
        runner: it in its runtime.
        options: format and runtime.
    Returns:
        rows of layer, operation, macs, runs_in (a number type), kernel (the runtime's name), why ("" of integers).
    """
    runtime, session = options.chosen_runtime(), getattr(runner, "session", None)
    if exported.program is None or session is None:
        return []
    if runtime == "inductor":
        return [_row(node, kernel, runtime) for node, kernel in inductor_nodes(session)]
    if runtime not in _EVIDENCE:
        return []
    with tempfile.TemporaryDirectory() as folder:
        graph = exported.path
        if options.format != "onnx":
            graph = Path(folder) / "model.onnx"
            onnx(exported.program, graph, options)
        names = _input_names(graph)
        nodes = compute_nodes(graph, dict(zip(names, in_order(exported.example, names), strict=True)))
        kernels = _EVIDENCE[runtime](graph, session, exported.threads)
    return [_row(node, kernels.get(node.name) or kernels.get(node.output), runtime) for node in nodes]


def integer_share(rows: list[dict[str, Any]]) -> float | None:
    """The share of all MACs that are products of integers; None where nothing multiplies."""
    total = sum(row["macs"] for row in rows)
    return sum(row["macs"] for row in rows if not row["why"]) / total if total else None


def _input_names(path: Path) -> list[str]:
    import onnx as library

    graph = library.load(path, load_external_data=False).graph
    constants = {entry.name for entry in graph.initializer}
    return [entry.name for entry in graph.input if entry.name not in constants]


def _row(node: ComputeNode, kernel: Kernel | None, runtime: str) -> dict[str, Any]:
    integers = node.table in ("int8", "uint8") if node.table else kernel is not None and kernel.integers
    return {
        "layer": node.layer or "(the model itself)",
        "operation": node.operation,
        "macs": node.macs,
        "runs_in": node.table or (kernel.number_type if kernel else "unknown"),
        "kernel": kernel.name if kernel else "",
        "why": "" if integers else reason(node, kernel, runtime),
    }


def reason(node: ComputeNode, kernel: Kernel | None, runtime: str) -> str:
    """Why a node does not compute in integers."""
    if node.table:
        return "its table is not quantized"
    if node.operation in ("LSTM", "GRU", "RNN"):
        return f"{runtime} has no integer kernel for a static {node.operation}"
    read = [place for place in node.floats if place != "output"]
    if read:
        return f"its {' and '.join(read)} {'is' if len(read) == 1 else 'are'} not quantized"
    kind = f"{node.operation} of {node.spatial} dimensions" if node.spatial else node.operation
    if kernel is None:
        return f"{runtime} names no kernel for it"
    if node.operation in ("ConvTranspose", "Einsum") or "output" not in node.floats:
        return f"{runtime} has no integer kernel for {kind} here"
    return "what it writes is not quantized"
