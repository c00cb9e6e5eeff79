"""ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...core.errors import InputError, first_line, require
from ...core.types import Inputs
from .exported import Exported, InputSpec, Runner, as_outputs, in_order

_CPU = "CPUExecutionProvider"
_TYPES = {"float": torch.float32, "double": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16,
          "int64": torch.int64, "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8,
          "bool": torch.bool}  # fmt: skip


def onnxruntime_cuda(exported: Exported) -> Runner:
    """ONNX Runtime's CUDA provider; what it has no kernels for runs on the CPU."""
    return onnxruntime(exported, provider="CUDAExecutionProvider")


def onnxruntime_tensorrt(exported: Exported) -> Runner:
    """ONNX Runtime's TensorRT provider; what it has no kernels for runs on the CPU."""
    return onnxruntime(exported, provider="TensorrtExecutionProvider")


def onnxruntime(exported: Exported, profile: Path | None = None, *, provider: str = _CPU) -> Runner:
    """ONNX Runtime with all graph optimizations.

    Args:
        exported: the model.
        profile: where the session writes what each node took, when its `end_profiling` is called.
        provider: who computes; the CPU takes what that one has no kernels for.
    Raises:
        InputError: if this onnxruntime has no such provider, the provider does not start, or the file does not load.
    """
    runtime = require("onnxruntime", "onnx")
    if provider not in runtime.get_available_providers():
        raise InputError(
            f"this onnxruntime has no {provider} (it has {', '.join(runtime.get_available_providers())}); "
            "pip install onnxruntime-gpu in its place, or choose runtime onnxruntime"
        )
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = exported.threads
    settings.log_severity_level = 3
    if profile is not None:
        settings.enable_profiling, settings.profile_file_prefix = True, str(profile)
    try:
        session = runtime.InferenceSession(
            str(exported.path), settings, providers=list(dict.fromkeys([provider, _CPU]))
        )
    except Exception as error:  # the library's own classes
        raise InputError(f"ONNX Runtime cannot load {exported.path.name!r}: {first_line(error)}") from error
    if provider not in session.get_providers():
        raise InputError(f"{provider} does not start here (its libraries are missing); choose runtime onnxruntime")
    specs = tuple(
        InputSpec(
            entry.name,
            tuple(size if isinstance(size, int) else None for size in entry.shape),
            _TYPES.get(entry.type.removeprefix("tensor(").removesuffix(")"), torch.float32),
        )
        for entry in session.get_inputs()
    )
    names = [spec.name for spec in specs]

    def run(inputs: Inputs) -> Any:
        tensors = in_order(inputs, names, exported.example)
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return as_outputs(exported, session.run(None, feed))

    return Runner(run, session, specs, session.get_modelmeta().custom_metadata_map).in_batches(exported.example)
