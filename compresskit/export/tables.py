"""Registries of export's named choices: where an exported model runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.registry import Registry, Row

if TYPE_CHECKING:
    from torch import nn

    from .runtimes import Exported

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
    takes=("exported",),
    doc="""Where an exported model runs.

A row is a function (exported) -> module: `exported` (runtimes.Exported) has the file, the program, an example and the
number of threads; the module's forward takes the model's inputs and returns its first output. A row's attribute
`reads` names the formats that it reads, e.g. ("onnx",); without it any.""",
)
