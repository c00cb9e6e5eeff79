"""Registries of export's named choices: what a model is written as, and where it runs then. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InputError, nearest
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
                "options": ("opset", "with_script", "dynamic", "with_past", "preprocess", "labels"),
            },
        ),
        "openvino": Row(
            "exporters.openvino:openvino",
            "OpenVINO's IR, an .xml file and its weights in a .bin beside it",
            attributes={
                "suffix": ".xml",
                "beside": ".bin",
                "runtime": "openvino",
                "packages": {"openvino": "openvino", "onnx": "onnx", "onnxscript": "onnx"},
                "options": ("opset", "dynamic", "with_past", "labels"),
            },
        ),
        "executorch": Row(
            "exporters.phones.executorch:executorch",
            "ExecuTorch's .pte for phones, through XNNPACK, of one batch size",
            attributes={
                "suffix": ".pte",
                "runtime": "executorch",
                "packages": {"executorch.exir": "executorch"},
                "batch": "fixed",
                "options": ("labels",),
            },
        ),
        "litert": Row(
            "exporters.phones.litert:litert",
            "LiteRT's .tflite (TensorFlow Lite) for phones, of one batch size",
            attributes={
                "suffix": ".tflite",
                "runtime": "litert",
                "packages": {"litert_torch": "litert"},
                "batch": "fixed",
            },
        ),
        "pt2": Row(
            "exporters.pt2:pt2",
            "torch.export's archive, for torch.compile",
            attributes={"suffix": ".pt2", "runtime": "inductor", "options": ("dynamic", "labels")},
        ),
        "hf": Row(
            "exporters.hugging_face.hf:hf",
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
            "exporters.hugging_face.compressed_tensors:compressed_tensors",
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
        "gptq": Row(
            "exporters.hugging_face.gptq:gptq",
            "a transformers folder in GPTQ's layout (integers of 2, 4 or 8 bits), for vLLM and GPTQModel",
            attributes={
                "suffix": "-gptq",
                "runtime": "unpacked",
                "packages": {"transformers": "hf"},
                "options": ("factored",),
                "takes": "model",
                "writes": "folder",
                "loads": "unpacked",
            },
        ),
        "awq": Row(
            "exporters.hugging_face.awq:awq",
            "a transformers folder in AWQ's layout (4 bits), for vLLM",
            attributes={
                "suffix": "-awq",
                "runtime": "unpacked",
                "packages": {"transformers": "hf"},
                "options": ("factored",),
                "takes": "model",
                "writes": "folder",
                "loads": "unpacked",
            },
        ),
        "gguf": Row(
            "exporters.hugging_face.gguf:gguf",
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
the program, and no graph is traced), `writes` ("folder": `path` is an empty folder; transformers loads it), `loads`
("unpacked": a folder that transformers loads on a GPU alone; it is unpacked in the place of that), `beside`
(the suffix of a second file that it writes, ".bin") and `batch` ("fixed": the program is traced for the batch size of
the options alone).""",
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
        "unpacked": Row(
            "runtimes.unpacked:unpacked",
            "transformers, with the packed weights of a GPTQ or AWQ folder unpacked by us: their kernels need a GPU",
            attributes={
                "reads": ("gptq", "awq"),
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
            attributes={"reads": ("openvino", "onnx"), "module": "openvino", "packages": {"openvino": "openvino"}},
        ),
        "executorch": Row(
            "runtimes.executorch:executorch",
            "ExecuTorch's own runtime on the CPU",
            attributes={
                "reads": ("executorch",),
                "module": "executorch",
                "packages": {"executorch.runtime": "executorch"},
            },
        ),
        "litert": Row(
            "runtimes.litert:litert",
            "LiteRT on the CPU, with XNNPACK",
            attributes={
                "reads": ("litert",),
                "module": "ai_edge_litert",
                "packages": {"ai_edge_litert.interpreter": "litert"},
            },
        ),
        "cuda": Row(
            "runtimes.cuda:cuda",
            "PyTorch on the GPU; quantized layers compute in float",
            attributes={"module": "torch", "simulated": True, "device": "cuda"},
        ),
        "inductor-cuda": Row(
            "runtimes.cuda:inductor_cuda",
            "torch.compile on the GPU",
            attributes={"reads": ("pt2",), "module": "torch", "simulated": True, "device": "cuda"},
        ),
        "onnxruntime-cuda": Row(
            "runtimes.onnxruntime:onnxruntime_cuda",
            "ONNX Runtime's CUDA provider",
            attributes={
                "reads": ("onnx",),
                "module": "onnxruntime",
                "packages": {"onnxruntime": "onnx"},
                "provider": "CUDAExecutionProvider",
            },
        ),
        "onnxruntime-tensorrt": Row(
            "runtimes.onnxruntime:onnxruntime_tensorrt",
            "ONNX Runtime's TensorRT provider",
            attributes={
                "reads": ("onnx",),
                "module": "onnxruntime",
                "packages": {"onnxruntime": "onnx"},
                "provider": "TensorrtExecutionProvider",
            },
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
layers compute in float there; `device` ("cuda") that it needs; `provider` of ONNX Runtime that it needs.""",
)


def reads(runtime: str, format: str) -> bool:
    """Whether a runtime reads a format; rows of the user's own are loaded for that."""
    formats = RUNTIMES.attribute(runtime, "reads", ())
    return not formats or format in formats or runtime == EXPORTERS.attribute(format, "runtime", "")


def format_named(name: str) -> str | None:
    """The format whose files end as a name does; None where no format's do."""
    suffix = Path(name).suffix
    return next((form for form, row in EXPORTERS.items() if suffix and row.attributes.get("suffix") == suffix), None)


def format_asked_for(name: str) -> str | None:
    """The format that a name alone asks for; None where it has no suffix.

    Raises:
        InputError: if the name ends as the files of no format do, naming the nearest.
    """
    named, suffix = format_named(name), Path(name).suffix
    if named is None and suffix:
        known = [row.attributes.get("suffix", "") for row in EXPORTERS.values()]
        mend = nearest(suffix, [one for one in known if one.startswith(".")])
        raise InputError(f"{name!r} ends as the files of no format{mend}; else say which with --format")
    return named


def files_beside(path: Path) -> list[Path]:
    """Further files that an exported one may have: weights of a large ONNX graph, the second file of its format."""
    suffixes = {
        row.attributes.get("beside") for row in EXPORTERS.values() if row.attributes.get("suffix") == path.suffix
    }
    return [path.with_name(f"{path.name}.data"), *(path.with_suffix(suffix) for suffix in suffixes if suffix)]
