"""What works here: extras that import, runtimes that run a small model, and the install line of each that does not."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from typing import Any

import torch
from torch import nn

#: module -> the extra that installs it
EXTRAS = {
    "torchvision": "vision",
    "PIL": "vision",
    "timm": "timm",
    "transformers": "hf",
    "datasets": "hf",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "torchao": "quant",
    "tensorly": "tensor",
    "optuna": "search",
    "gymnasium": "search",
    "stable_baselines3": "search",
    "ray": "ray",
    "matplotlib": "plot",
}


def examine() -> list[dict[str, Any]]:
    """One row an extra and one a runtime: name, whether it works, version or reason, and the install line."""
    rows = [_extra_row(module, extra) for module, extra in EXTRAS.items()]
    return rows + [_runtime_row(name, check, extra) for name, (check, extra) in _RUNTIMES.items()]


def _extra_row(module: str, extra: str) -> dict[str, Any]:
    try:
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            found = importlib.import_module(module)
    except Exception as error:
        return _row("extra", module, False, f"{type(error).__name__}: {error}", extra)
    return _row("extra", module, True, str(getattr(found, "__version__", "")), extra)


def _runtime_row(name: str, check: Callable[[], str], extra: str | None) -> dict[str, Any]:
    try:
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            return _row("runtime", name, True, check(), extra)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:100]
        return _row("runtime", name, False, f"{type(error).__name__}: {reason}", extra)


def _row(kind: str, name: str, works: bool, detail: str, extra: str | None) -> dict[str, Any]:
    install = f"pip install 'compresskit[{extra}]'" if extra and not works else ""
    return {"kind": kind, "name": name, "works": "yes" if works else "no", "detail": detail, "install": install}


def _model() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), torch.zeros(1, 3, 8, 8)


@torch.inference_mode()
def _eager() -> str:
    module, inputs = _model()
    module(inputs)
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


@torch.inference_mode()
def _inductor() -> str:
    module, inputs = _model()
    torch.compile(module)(inputs)
    return "torch.compile runs"


def _cuda() -> str:
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device")
    return torch.cuda.get_device_name()


def _onnxruntime() -> str:
    import onnxruntime

    return ", ".join(onnxruntime.get_available_providers())


def _openvino() -> str:
    import openvino

    return ", ".join(openvino.Core().available_devices)


def _executorch() -> str:
    from executorch.runtime import Runtime

    names = Runtime.get().backend_registry.registered_backend_names
    if "XnnpackBackend" not in names:
        raise RuntimeError("no XNNPACK backend")
    return ", ".join(names)


def _litert() -> str:
    importlib.import_module("ai_edge_litert.interpreter")
    return f"ai-edge-litert {version('ai-edge-litert')}"


_RUNTIMES: dict[str, tuple[Callable[[], str], str | None]] = {
    "eager": (_eager, None),
    "inductor": (_inductor, None),
    "cuda": (_cuda, None),
    "onnxruntime": (_onnxruntime, "onnx"),
    "openvino": (_openvino, "openvino"),
    "executorch": (_executorch, "executorch"),
    "litert": (_litert, "litert"),
}
