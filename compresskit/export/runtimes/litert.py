"""LiteRT."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...core.errors import InputError, first_line, require
from ...core.types import Inputs
from .exported import Exported, InputSpec, Runner, as_outputs, in_order


def litert(exported: Exported) -> Runner:
    """LiteRT's interpreter on the CPU, with XNNPACK; what it takes as bytes is quantized for it here.

    Raises:
        InputError: if ai-edge-litert is not installed, or it cannot read the file.
    """
    library = require("ai_edge_litert.interpreter", "litert")
    try:
        interpreter = library.Interpreter(
            str(exported.path), num_threads=exported.threads, experimental_default_delegate_latest_features=True
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"LiteRT cannot load {exported.path.name!r}: {first_line(error)}") from error
    # args_0, args_1, ... in the order of forward
    given = sorted(interpreter.get_input_details(), key=lambda one: one["name"])
    results = sorted(interpreter.get_output_details(), key=lambda one: one["name"])
    specs = tuple(InputSpec(one["name"], tuple(int(size) for size in one["shape"]), _type(one)) for one in given)

    def run(inputs: Inputs) -> Any:
        for one, tensor in zip(given, in_order(inputs, list(inputs) if isinstance(inputs, dict) else []), strict=True):
            interpreter.set_tensor(one["index"], _as_taken(tensor.numpy(), one))
        interpreter.invoke()
        return as_outputs(exported, [_as_floats(interpreter.get_tensor(one["index"]), one) for one in results])

    return Runner(run, interpreter, specs, {}).in_batches()


def _type(one: dict[str, Any]) -> torch.dtype:
    """What is passed to the runner: floats where the file takes bytes of a range."""
    found = torch.from_numpy(np.zeros(0, one["dtype"])).dtype
    return torch.float32 if found is torch.int8 and one["quantization"][0] else found


def _as_taken(values: np.ndarray, one: dict[str, Any]) -> np.ndarray:
    scale, zero_point = one["quantization"]
    if one["dtype"] is np.int8 and scale:
        values = np.clip(np.rint(values / scale) + zero_point, -128, 127)
    return values.astype(one["dtype"])


def _as_floats(values: np.ndarray, one: dict[str, Any]) -> np.ndarray:
    scale, zero_point = one["quantization"]
    return (values.astype(np.float32) - zero_point) * scale if values.dtype == np.int8 and scale else values
