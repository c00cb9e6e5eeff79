"""ExecuTorch programs, their operators handed to XNNPACK where it has them."""

from __future__ import annotations

import copy
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from ...core.errors import InputError, first_line, require
from ..options import ExportOptions
from ..runtimes.executorch import ABOUT
from .export_program import DESCRIPTION
from .lowered_layers import decomposed
from .onnx import as_strings

_BYTE_MIDDLE = 128
_COMPUTING = ("conv1d", "conv2d", "convolution", "linear", "addmm", "mm")
#: what XNNPACK merges into the layer before it
_FUSED = ("relu", "relu_", "hardtanh", "hardtanh_")
#: what gives only values that it was given; XNNPACK's kernels for bytes keep the range of their input
_SELECTING = ("max_pool2d", "view", "reshape", "flatten", "permute", "transpose", "slice", "squeeze", "unsqueeze")


def executorch(program: torch.export.ExportedProgram, path: Path, options: ExportOptions) -> list[str]:
    """Write an exported program as `.pte`, what XNNPACK computes handed to it.

    XNNPACK quantizes to signed bytes, so ranges move by 128, which changes no value. Where a layer's input is quantized
    with a stored range and its output is not quantized, XNNPACK has no kernel; there the range is found in every run.

    Returns:
        notes on operators that stay with ExecuTorch's portable kernels, and on ranges that are found in every run.
    Raises:
        InputError: if executorch is not installed, or an operator has no form in it.
    """
    exir = require("executorch.exir", "executorch")
    partition = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    require("executorch.kernels.quantized", "executorch")  # kernels of quantizers that XNNPACK leaves
    about = json.dumps(as_strings(program.graph_module.meta.get(DESCRIPTION, {}))).encode()
    program = copy.deepcopy(program)
    found_in_runs = _ranges_in_every_run(program.graph)
    _same_range_around_selections(program.graph)
    _signed_bytes(program.graph)
    program.graph_module.recompile()
    try:
        with _quiet():
            edge = exir.to_edge_transform_and_lower(
                program,
                partitioner=[partition.XnnpackPartitioner()],
                constant_methods={ABOUT: torch.tensor(list(about), dtype=torch.uint8)},
            )
            written = edge.to_executorch()
    except Exception as error:  # the library's own passes
        raise InputError(f"ExecuTorch cannot write this model: {first_line(error)}") from error
    path.write_bytes(written.buffer)
    return [*_left_to_portable(edge.exported_program().graph), *found_in_runs]


def _signed_bytes(graph: torch.fx.Graph) -> None:
    """Move quantizers of activations from 0..255 to -128..127."""
    static = (decomposed().quantize_per_tensor.default, decomposed().dequantize_per_tensor.default)
    dynamic = (decomposed().quantize_per_tensor.tensor, decomposed().dequantize_per_tensor.tensor)
    for node in graph.nodes:
        if node.target in (*static, *dynamic) and node.args[5] is torch.uint8:
            values, scale, zero_point, low, high, _ = node.args
            moved = zero_point - _BYTE_MIDDLE if node.target in static else zero_point
            node.args = (values, scale, moved, low - _BYTE_MIDDLE, high - _BYTE_MIDDLE, torch.int8)
        elif node.target is decomposed().choose_qparams.tensor and node.args[4] is torch.uint8:
            values, low, high, smallest, _ = node.args
            node.args = (values, low - _BYTE_MIDDLE, high - _BYTE_MIDDLE, smallest, torch.int8)


def _ranges_in_every_run(graph: torch.fx.Graph) -> list[str]:
    """Find ranges as the model runs, for layers with quantized input whose output stays in float; a note on how many.

    One whose output is needed both quantized and in float counts among them.
    """
    quantize, dequantize = (getattr(decomposed(), f"{name}_per_tensor") for name in ("quantize", "dequantize"))
    changed = 0
    for node in list(graph.nodes):
        if _name(node) not in _COMPUTING or _is_quantized_output(node, quantize.default):
            continue
        opened: Any = node.args[0]
        codes: Any = opened.args[0] if _calls(opened, dequantize.default) else None
        if not _calls(codes, quantize.default):
            continue
        source, _, _, low, high, dtype = codes.args
        with graph.inserting_before(node):
            chosen = graph.call_function(
                decomposed().choose_qparams.tensor, (source, low, high, torch.finfo(torch.float32).eps, dtype)
            )
            scale, zero_point = (graph.call_function(_item, (chosen, place)) for place in (0, 1))
            limits = (scale, zero_point, low, high, dtype)
            new = graph.call_function(quantize.tensor, (source, *limits))
            back = graph.call_function(dequantize.tensor, (new, *limits))
        _describe(chosen, scale, zero_point, new, back, codes, opened)
        node.replace_input_with(opened, back)
        changed += 1
    graph.eliminate_dead_code()
    return [f"{changed} layers find the range of their input in every run: their output is not quantized"] * (
        changed > 0
    )


def _same_range_around_selections(graph: torch.fx.Graph) -> None:
    """Quantize what an operation selects from bytes with the range that they have, before another range is taken.

    That changes no value.
    """
    quantize, dequantize = (getattr(decomposed(), f"{name}_per_tensor").default for name in ("quantize", "dequantize"))
    for node in list(graph.nodes):
        opened: Any = node.args[0] if _name(node) in _SELECTING else None
        if not _calls(opened, dequantize) or len(node.users) != 1:
            continue
        (user,) = node.users
        if user.target is not quantize or user.args[1:] == opened.args[1:]:
            continue
        with graph.inserting_before(user):
            codes = graph.call_function(quantize, (node, *opened.args[1:]))
            back = graph.call_function(dequantize, (codes, *opened.args[1:]))
        codes.meta["val"], back.meta["val"] = user.meta["val"], node.meta["val"]
        user.replace_input_with(node, back)


def _item(pair: Any, place: int) -> Any:
    return pair[place]


def _describe(chosen: Any, scale: Any, zero_point: Any, new: Any, back: Any, codes: Any, opened: Any) -> None:
    """What the exporter keeps of each node's result: its shape and number type."""
    mode = opened.meta["val"].fake_mode
    with mode:
        chosen.meta["val"] = (torch.empty(1, dtype=torch.float64), torch.empty(1, dtype=torch.int64))
    scale.meta["val"], zero_point.meta["val"] = chosen.meta["val"]
    new.meta["val"], back.meta["val"] = codes.meta["val"], opened.meta["val"]


def _is_quantized_output(node: torch.fx.Node, quantize: Any) -> bool:
    """Whether all that reads a layer's output, what is merged into it apart, quantizes it with a stored range."""
    while len(node.users) == 1 and _name(next(iter(node.users))) in _FUSED:
        node = next(iter(node.users))
    return bool(node.users) and all(user.target is quantize for user in node.users)


def _calls(node: Any, target: Any) -> bool:
    return getattr(node, "target", None) is target


def _name(node: torch.fx.Node) -> str:
    """`aten.conv2d.default` -> `conv2d`; "" for what is no call."""
    return str(node.target).split(".")[1] if node.op == "call_function" and str(node.target).count(".") > 1 else ""


def _left_to_portable(graph: torch.fx.Graph) -> list[str]:
    names = Counter(
        str(node.target).partition("EdgeOpOverload: ")[2].split(".")[1 if "aten" in str(node.target) else 0]
        for node in graph.nodes
        if node.op == "call_function" and "EdgeOpOverload" in str(node.target)
    )
    if not names:
        return []
    listed = ", ".join(f"{name} ({count})" for name, count in names.most_common(6))
    return [f"XNNPACK leaves {sum(names.values())} operators to portable kernels: {listed}"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's lines about what it is doing."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)
