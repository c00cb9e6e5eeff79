"""ExecuTorch programs, their operators handed to XNNPACK where it has them."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ....core.errors import InputError, first_line, require
from ....core.reporting.loggers import quiet
from ...options import ExportOptions
from ...runtimes.executorch import ABOUT
from ..export_program import DESCRIPTION
from ..lowered_layers import decomposed
from ..onnx import as_strings
from .recurrent_loops import with_loops
from .signed_bytes import (
    calls,
    one_dequantizer_a_reader,
    operator_name,
    same_range_around_selections,
    same_range_before_joining,
    signed_bytes,
)

_COMPUTING = ("conv1d", "conv2d", "convolution", "linear", "addmm", "mm")
#: what XNNPACK merges into the layer before it
_FUSED = ("relu", "relu_", "hardtanh", "hardtanh_")


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
    program, loops = with_loops(copy.deepcopy(program))
    found_in_runs = _ranges_in_every_run(program.graph)
    same_range_around_selections(program.graph)
    same_range_before_joining(program.graph)
    signed_bytes(program.graph)
    one_dequantizer_a_reader(program.graph)
    program.graph_module.recompile()
    try:
        with quiet():
            edge = exir.to_edge_transform_and_lower(
                program,
                partitioner=[partition.XnnpackPartitioner()],
                constant_methods={ABOUT: torch.tensor(list(about), dtype=torch.uint8)},
            )
            written = edge.to_executorch()
    except Exception as error:  # the library's own passes
        raise InputError(f"ExecuTorch cannot write this model: {first_line(error)}") from error
    path.write_bytes(written.buffer)
    return [*_left_to_portable(edge.exported_program().graph_module), *found_in_runs, *_looped(loops)]


def _ranges_in_every_run(graph: torch.fx.Graph) -> list[str]:
    """Find ranges as the model runs, for layers with quantized input whose output stays in float; a note on how many.

    One whose output is needed both quantized and in float counts among them.
    """
    quantize, dequantize = (getattr(decomposed(), f"{name}_per_tensor") for name in ("quantize", "dequantize"))
    changed = 0
    for node in list(graph.nodes):
        if operator_name(node) not in _COMPUTING or _is_quantized_output(node, quantize.default):
            continue
        opened: Any = node.args[0]
        codes: Any = opened.args[0] if calls(opened, dequantize.default) else None
        if not calls(codes, quantize.default):
            continue
        _, _, _, low, high, dtype = codes.args
        with graph.inserting_before(node):
            # the codes are read, so that the layer before keeps its quantized output: without it, it is computed wrong
            chosen = graph.call_function(
                decomposed().choose_qparams.tensor, (opened, low, high, torch.finfo(torch.float32).eps, dtype)
            )
            scale, zero_point = (graph.call_function(_item, (chosen, place)) for place in (0, 1))
            limits = (scale, zero_point, low, high, dtype)
            new = graph.call_function(quantize.tensor, (opened, *limits))
            back = graph.call_function(dequantize.tensor, (new, *limits))
        _describe(chosen, scale, zero_point, new, back, codes, opened)
        node.replace_input_with(opened, back)
        changed += 1
    graph.eliminate_dead_code()
    return [f"{changed} layers find the range of their input in every run: their output is not quantized"] * (
        changed > 0
    )


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
    while len(node.users) == 1 and operator_name(next(iter(node.users))) in _FUSED:
        node = next(iter(node.users))
    return bool(node.users) and all(user.target is quantize for user in node.users)


def _looped(count: int) -> list[str]:
    """A note on loops."""
    if not count:
        return []
    what = "1 recurrent operator is a loop" if count == 1 else f"{count} recurrent operators are loops"
    return [f"{what} over the steps of a sequence, in float"]


def _left_to_portable(module: torch.fx.GraphModule) -> list[str]:
    graphs = [one.graph for one in module.modules() if isinstance(one, torch.fx.GraphModule)]  # loops have their own
    names = Counter(
        str(node.target).partition("EdgeOpOverload: ")[2].split(".")[1 if "aten" in str(node.target) else 0]
        for graph in graphs
        for node in graph.nodes
        if node.op == "call_function" and "EdgeOpOverload" in str(node.target)
    )
    if not names:
        return []
    listed = ", ".join(f"{name} ({count})" for name, count in names.most_common(6))
    return [f"XNNPACK leaves {sum(names.values())} operators to portable kernels: {listed}"]
