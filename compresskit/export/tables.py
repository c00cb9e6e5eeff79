"""The named choices of export: where an exported model runs. Imports no torch."""

from __future__ import annotations

from ..core.registry import Row, Table

RUNTIMES = Table(
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
)
