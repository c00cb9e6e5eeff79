"""Runners: an exported model, ready to be called, in the runtime that is asked for.

Each takes what was exported and returns a module of one forward, so metrics and timers treat it like any model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compresskit.core.errors import require
from compresskit.core.tensors.dtypes import cast
from compresskit.core.types import Inputs

from .exporters.export_program import as_arguments, decomposed


@dataclass(frozen=True)
class Exported:
    """What was written, and what it was made from.

    Attributes:
        module: the quantized model itself.
        program: its exported program.
        path: the file.
        example: inputs of the batch size that will be run.
        threads: threads to use.
    """

    module: nn.Module
    program: torch.export.ExportedProgram
    path: Path
    example: Inputs
    threads: int


class Runner(nn.Module):
    """A function from inputs to the first output, as a module; with the runtime's own session where it has one."""

    def __init__(self, run: Callable[[Inputs], Tensor], session: Any = None):
        super().__init__()
        self._run = run
        self.session = session

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return self._run(kwargs if kwargs else args)


def preferred(exported: Exported) -> nn.Module:
    """The runtime that a file's format is made for."""
    return onnxruntime(exported) if exported.path.suffix == ".onnx" else inductor(exported)


def eager(exported: Exported) -> nn.Module:
    """The quantized model in PyTorch."""
    return exported.module.eval()


def inductor(exported: Exported) -> nn.Module:
    """The exported program through torch.compile, with oneDNN's integer kernels where torchao can place them.

    The compiled model takes the example's batch size; another one is compiled anew.
    """
    lowering = require("torchao.quantization.pt2e.lowering", "quant")
    import torch._inductor.config as settings

    decomposed()
    program, args = exported.program.module(), as_arguments(exported.example)
    # constant folding of weights is what the integer patterns wait for
    settings.freezing = True
    with torch.no_grad():
        program = lowering.lower_pt2e_quantized_to_x86(program, args[0]) if not args[1] else program
        compiled = torch.compile(program)
        compiled(*args[0], **args[1])

    def run(inputs: Inputs) -> Tensor:
        positional, named = as_arguments(inputs)
        with torch.no_grad():
            return _first(compiled(*positional, **named))

    return Runner(run)


def onnxruntime(exported: Exported, profile: Path | None = None) -> nn.Module:
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

    def run(inputs: Inputs) -> Tensor:
        feed = {name: tensor.numpy() for name, tensor in zip(names, _in_order(inputs, names), strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return Runner(run, session)


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

    def run(inputs: Inputs) -> Tensor:
        arrays = {name: tensor.numpy() for name, tensor in zip(names, _in_order(inputs, names), strict=True)}
        return torch.from_numpy(request.infer(arrays)[0].copy())

    return Runner(run)


def _in_order(inputs: Inputs, names: list[str]) -> list[Tensor]:
    """Contiguous input tensors in the graph's order; graphs read floats in float32."""
    positional, named = as_arguments(cast(inputs, torch.float32))
    if named and not positional and set(named) != set(names) and len(named) == len(names):
        positional, named = tuple(named.values()), {}  # the writer renames an input that is an output, too
    tensors = [*positional, *(named[name] for name in names if name in named)]
    return [tensor.detach().cpu().contiguous() for tensor in tensors]


def _first(outputs: object) -> Tensor:
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return leaves[0]
