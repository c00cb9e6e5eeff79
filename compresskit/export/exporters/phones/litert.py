"""LiteRT's files (TensorFlow Lite, .tflite), for phones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ....core.errors import InputError, first_line, require
from ....core.reporting.loggers import quiet
from ...options import ExportOptions
from ..lowered_layers import decomposed
from .signed_bytes import calls, same_range_around_selections, signed_bytes

_LIMITS = (-128, 127, torch.int8)


def litert(program: torch.export.ExportedProgram, path: Path, options: ExportOptions) -> list[str]:
    """Write an exported program as `.tflite`.

    LiteRT quantizes to signed bytes, so ranges move by 128, which changes no value. It finds no ranges as it runs: what
    would find them is left in float. Where the first operation quantizes an input, the file takes that as bytes.

    Returns:
        notes on what of the quantization the file does not hold.
    Raises:
        InputError: if litert-torch is not installed, or an operator has no form in LiteRT.
    """
    library = require("litert_torch", "litert")
    program = copy.deepcopy(program)
    notes = _without_dynamic_ranges(program.graph)
    same_range_around_selections(program.graph)
    signed_bytes(program.graph)
    program.graph_module.recompile()
    args, kwargs = program.example_inputs or ((), {})
    module: Any = program.module()
    in_integers, in_float = _weights_as_quantized_floats(module)
    if in_float:
        reason = "LiteRT has one scale a channel, and no zero point"
        notes.append(f"weights of {in_float} layers are floats in the file: {reason}")
    static = any(calls(node, decomposed().quantize_per_tensor.default) for node in module.graph.nodes)
    try:
        with quiet():
            # a conversion mode alone is read of it: what is quantized stands in the graph
            modes = {} if not in_integers else {"quant_config": _mode("static" if static else "dynamic")}
            library.convert(module, args, kwargs or None, **modes).export(str(path))
    except Exception as error:  # the library's own passes
        raise InputError(f"LiteRT cannot write this model: {first_line(error)}") from error
    return notes


def _mode(ranges: str) -> Any:
    """How the converter reads quantizers in a graph: with stored ranges of activations, or none."""
    configs = require("litert_torch.quantize.quant_config", "litert")
    quantizers = require("litert_torch.quantize.pt2e_quantizer", "litert")
    settings = quantizers.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=ranges == "dynamic")
    return configs.QuantConfig(pt2e_quantizer=quantizers.PT2EQuantizer().set_global(settings))


def _without_dynamic_ranges(graph: torch.fx.Graph) -> list[str]:
    """Leave out quantizers whose range is found as the model runs; a note on how many."""
    found = 0
    for node in list(graph.nodes):
        if calls(node, decomposed().dequantize_per_tensor.tensor):
            codes: Any = node.args[0]
            node.replace_all_uses_with(codes.args[0])
            found += 1
    graph.eliminate_dead_code()
    return [f"{found} activations stay in float: LiteRT finds no ranges as it runs"] * (found > 0)


def _weights_as_quantized_floats(module: nn.Module) -> tuple[int, int]:
    """Write constants of codes as floats and the quantizer that makes those codes of them, as the converter wants it.

    Returns:
        how many weights are quantized in the file, and how many are not.
    """
    graph: torch.fx.Graph = module.graph  # type: ignore[assignment]
    done = left = 0
    node: Any
    for node in list(graph.nodes):
        groups = calls(node, decomposed().dequantize_per_channel_group.default)
        if not groups and not calls(node, decomposed().dequantize_per_channel.default):
            continue
        codes, scale, zero_point = (None if given is None else _constant(module, given) for given in node.args[:3])
        name, dequantize = f"{node.name}_floats", node.target
        module.register_buffer(name, dequantize(codes, scale, zero_point, *node.args[3:]))
        with graph.inserting_before(node):
            floats = graph.get_attr(name)
            if groups or (zero_point is not None and bool(zero_point.any())):
                node.replace_all_uses_with(floats)
                left += 1
                continue
            given = (*node.args[1:4], *_LIMITS)
            quantized = graph.call_function(decomposed().quantize_per_channel.default, (floats, *given))
        node.args = (quantized, *given)
        done += 1
    graph.eliminate_dead_code()
    module.recompile()  # type: ignore[operator]
    return done, left


def _constant(module: nn.Module, node: Any) -> torch.Tensor:
    found: Any = module
    for part in node.target.split("."):
        found = getattr(found, part)
    return found.detach()
