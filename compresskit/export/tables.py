"""Registries of export's named choices: what a model is written as, and where it runs then. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.registry import Registry, Row

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from ..core.types import Loaded
    from .options import ExportOptions
    from .runtimes.exported import Exported

EXPORTERS: Registry[Callable[[ExportedProgram | Loaded, Path, ExportOptions], Sequence[str] | None]] = Registry(
    "format",
    "compresskit.export",
    {
        "onnx": Row(
            "exporters.onnx:onnx",
            "ONNX with quantize/dequantize pairs",
            attributes={
                "suffix": ".onnx",
                "runtime": "onnxruntime",
                "packages": {"onnx": "onnx", "onnxscript": "onnx"},
                "options": ("opset", "with_script", "dynamic", "with_past"),
            },
        ),
        "pt2": Row(
            "exporters.pt2:pt2",
            "torch.export's archive, for torch.compile",
            attributes={"suffix": ".pt2", "runtime": "inductor", "options": ("dynamic",)},
        ),
        "hf": Row(
            "exporters.hf:hf",
            "a transformers folder that from_pretrained loads, in the model's own number type",
            attributes={
                "suffix": "-hf",
                "runtime": "transformers",
                "packages": {"transformers": "hf"},
                "options": ("factored",),
                "takes": "model",
                "writes": "folder",
            },
        ),
        "compressed-tensors": Row(
            "exporters.compressed_tensors:compressed_tensors",
            "a transformers folder whose linear layers stay in few bits (integers of 2 to 8, float8), for vLLM too",
            attributes={
                "suffix": "-compressed",
                "runtime": "transformers",
                "packages": {"transformers": "hf", "compressed_tensors": "compressed-tensors"},
                "options": ("factored",),
                "takes": "model",
                "writes": "folder",
            },
        ),
        "gguf": Row(
            "exporters.gguf:gguf",
            "one file for llama.cpp, of Llama-like models: Q4_0, Q4_1, Q8_0 where groups are multiples of 32",
            attributes={
                "suffix": ".gguf",
                "runtime": "transformers",
                "packages": {"transformers": "hf", "gguf": "gguf", "accelerate": "gguf"},
                "options": ("factored",),
                "takes": "model",
            },
        ),
    },
    group="exporters",
    takes=("program", "path", "options"),
    returns="row_checks:notes",
    doc="""What an exported model is written as.

A row is a function (program, path, options) -> notes: it writes `program`, a torch.export.ExportedProgram whose
quantization is in PyTorch's standard quantize/dequantize operators, to `path`, and returns lines that the report
shows, or None. `options` are the ExportOptions. Its attributes, none of which it must have: `suffix` of its files
(".onnx"), `runtime` that auto stands for (default: eager), `packages` that it imports, each with the extra that brings
it, `options` that other formats do not read, `takes` ("model": the function gets the core.types.Loaded in the place of
the program, and no graph is traced), and `writes` ("folder": `path` is an empty folder; transformers loads it).""",
)

RUNTIMES: Registry[Callable[[Exported], nn.Module]] = Registry(
    "runtime",
    "compresskit.export",
    {
        "auto": Row(
            "runtimes.auto:auto",
            "the one made for the format: onnxruntime for onnx, inductor for pt2, transformers for its folders",
        ),
        "eager": Row(
            "runtimes.eager:eager",
            "PyTorch as it is; quantized layers compute in float",
            attributes={"module": "torch", "simulated": True},
        ),
        "transformers": Row(
            "runtimes.transformers:transformers",
            "transformers, from the folder that was written",
            attributes={
                "reads": ("hf", "compressed-tensors", "gguf"),
                "module": "transformers",
                "simulated": True,
                "packages": {"transformers": "hf"},
            },
        ),
        "inductor": Row(
            "runtimes.inductor:inductor",
            "torch.compile; integer kernels on x86 through torchao",
            attributes={
                "reads": ("pt2",),
                "module": "torch",
                "packages": {"torchao.quantization.pt2e.lowering": "quant"},
            },
        ),
        "onnxruntime": Row(
            "runtimes.onnxruntime:onnxruntime",
            "ONNX Runtime on the CPU",
            attributes={"reads": ("onnx",), "module": "onnxruntime", "packages": {"onnxruntime": "onnx"}},
        ),
        "openvino": Row(
            "runtimes.openvino:openvino",
            "OpenVINO on the CPU",
            attributes={"reads": ("onnx",), "module": "openvino", "packages": {"openvino": "openvino"}},
        ),
    },
    group="runtimes",
    takes=("exported",),
    returns="row_checks:runner",
    doc="""Where an exported model runs.

A row is a function (exported) -> module: `exported` (runtimes.exported.Exported) has the file, the program, an example
and the number of threads; the module's forward takes the model's inputs and returns its outputs. Its attributes,
none of which it must have: `reads`, the formats that it reads, e.g. ("onnx",), without it any; `module` whose version
the report names; `packages` that it imports, each with the extra that brings it; `simulated`, true where quantized
layers compute in float there.""",
)


def reads(runtime: str, format: str) -> bool:
    """Whether a runtime reads a format; rows of the user's own are loaded for that."""
    formats = RUNTIMES.attribute(runtime, "reads", ())
    return not formats or format in formats or runtime == EXPORTERS.attribute(format, "runtime", "")
