"""ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.errors import require
from ...core.types import Inputs
from .exported import Exported, Runner, as_outputs, in_order


def onnxruntime(exported: Exported, profile: Path | None = None) -> Runner:
    """ONNX Runtime's CPU provider with all graph optimizations.

    Args:
        exported: the model.
        profile: where the session writes what each node took, when its `end_profiling` is called.
    """
    runtime = require("onnxruntime", "onnx")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = exported.threads
    settings.log_severity_level = 3
    if profile is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
    session = runtime.InferenceSession(str(exported.path), settings, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Inputs) -> Any:
        tensors = in_order(inputs, names, exported.example)
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return as_outputs(exported, session.run(None, feed))

    return Runner(run, session)
