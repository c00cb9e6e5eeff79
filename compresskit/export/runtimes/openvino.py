"""OpenVINO."""

from __future__ import annotations

from typing import Any

import torch

from ...core.errors import InputError, first_line, require
from ...core.types import Inputs
from .exported import Exported, InputSpec, Runner, as_outputs, in_order

#: where our files keep what they say of themselves
ABOUT = "compresskit"
_OF_ONNX = "framework"  # where OpenVINO holds what an ONNX file says of itself
_TYPES = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16, "bf16": torch.bfloat16,
          "i64": torch.int64, "i32": torch.int32, "i16": torch.int16, "i8": torch.int8, "u8": torch.uint8,
          "boolean": torch.bool}  # fmt: skip


def openvino(exported: Exported) -> Runner:
    """OpenVINO's CPU plugin, set for latency without rounding of its own.

    Raises:
        InputError: if openvino is not installed, or it cannot read the file.
    """
    runtime = require("openvino", "openvino")
    core = runtime.Core()
    settings = {
        "INFERENCE_NUM_THREADS": exported.threads, "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",  # else bfloat16, and rounding of its own, where the processor is fast at it
    }  # fmt: skip
    try:
        model = core.read_model(str(exported.path))
        compiled = core.compile_model(model, "CPU", settings)
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot load {exported.path.name!r}: {reason(error)}") from error
    request = compiled.create_infer_request()
    specs = tuple(_spec(port, place) for place, port in enumerate(compiled.inputs))
    names = [spec.name for spec in specs]

    def run(inputs: Inputs) -> Any:
        tensors = in_order(inputs, names, exported.example)
        arrays = dict(enumerate(tensor.numpy() for tensor in tensors))
        found = request.infer(arrays)
        return as_outputs(exported, [found[port].copy() for port in compiled.outputs])

    known = next((key for key in (ABOUT, _OF_ONNX) if model.has_rt_info([key])), None)
    about = {} if known is None else model.get_rt_info([known]).value
    return Runner(
        run, compiled, specs, {key: str(getattr(one, "value", one)) for key, one in about.items()}
    ).in_batches(exported.example)


def _spec(port: Any, place: int) -> InputSpec:
    sizes = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    name = port.get_any_name() if port.get_names() else f"input_{place}"
    return InputSpec(name, sizes, _TYPES.get(port.get_element_type().get_type_name(), torch.float32))


def reason(error: Exception) -> str:
    """The line of OpenVINO's text that says what is wrong, after those that say where."""
    lines = [line for line in str(error).splitlines() if line and not line.startswith(("Exception from", "Check '"))]
    return (lines or [first_line(error)])[0]
