"""OpenVINO."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...core.errors import require
from ...core.types import Inputs
from .exported import Exported, Runner, as_outputs, in_order


def openvino(exported: Exported) -> nn.Module:
    """OpenVINO's CPU plugin, set for latency without rounding of its own."""
    runtime = require("openvino", "openvino")
    core = runtime.Core()
    settings = {
        "INFERENCE_NUM_THREADS": exported.threads, "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",  # else bfloat16, and rounding of its own, where the processor is fast at it
    }  # fmt: skip
    compiled = core.compile_model(core.read_model(str(exported.path)), "CPU", settings)
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.inputs]

    def run(inputs: Inputs) -> Any:
        tensors = in_order(inputs, names, exported.example)
        arrays = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        found = request.infer(arrays)
        return as_outputs(exported, [found[port].copy() for port in compiled.outputs])

    return Runner(run)
