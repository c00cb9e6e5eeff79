"""Registries of export's named choices: where an exported model runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.registry import Registry, Row

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from .options import ExportOptions
    from .runtimes import Exported

EXPORTERS: Registry[Callable[[ExportedProgram, Path, ExportOptions], Sequence[str] | None]] = Registry(
    "format",
    "compresskit.export",
    {
        "onnx": Row("lowering:write_onnx", "ONNX with quantize/dequantize pairs"),
        "pt2": Row("lowering:write_pt2", "torch.export, for torch.compile"),
    },
    group="exporters",
    takes=("program", "path", "options"),
    returns="row_checks:notes",
    doc="""What a model is written as.

A row is a function (program, path, options) -> notes: it writes a torch.export.ExportedProgram, whose integer layers
are quantize/dequantize pairs, to the file `path`, and returns lines that the report shows, or None. `runtime: auto`
runs the model in eager PyTorch then; name a runtime that reads the file.""",
)

RUNTIMES: Registry[Callable[[Exported], nn.Module]] = Registry(
    "runtime",
    "compresskit.export",
    {
        "auto": Row("runtimes:preferred", "onnxruntime for .onnx, inductor for .pt2"),
        "eager": Row("runtimes:eager", "PyTorch as it is; quantized layers compute in float"),
        "inductor": Row(
            "runtimes:inductor",
            "torch.compile; integer kernels on x86 through torchao",
        ),
        "onnxruntime": Row("runtimes:onnxruntime", "ONNX Runtime on the CPU"),
        "openvino": Row("runtimes:openvino", "OpenVINO on the CPU"),
    },
    group="runtimes",
    returns="row_checks:runner",
    takes=("exported",),
    doc="""Where an exported model runs.

A row is a function (exported) -> module: `exported` (runtimes.Exported) has the file, the program, an example and the
number of threads; the module's forward takes the model's inputs and returns its first output.""",
)
