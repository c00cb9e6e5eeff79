"""What `export` takes. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from ..core.options import Options, choice, option
from .tables import EXPORTERS, RUNTIMES

_RUNTIME_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
_RUNTIME_OF = {"onnx": ("onnxruntime", "openvino", "eager"), "pt2": ("inductor", "eager")}


class ExportOptions(Options):
    """Write a model as a graph for another runtime, and run it there."""

    format: Annotated[str, choice(EXPORTERS)] = option("onnx", "what the model is written as", section="Export")
    runtime: Annotated[str, choice(RUNTIMES)] = option(
        "auto",
        "where to run the result; auto: onnxruntime for onnx, inductor for pt2, eager for your own",
        section="Export",
    )
    opset: int = option(21, "ONNX operator set", section="Export", ge=17, le=23)
    threads: int = option(1, "threads of the runtime while measuring", section="Measuring", ge=1, le=1024)
    batch_size: int = option(1, "inputs a forward while measuring latency", section="Measuring", ge=1)
    rounds: int = option(
        12, "rounds of interleaved timing against the model in eager PyTorch", section="Measuring", ge=1
    )
    samples: int = option(512, "inputs to compare outputs on", section="Measuring", ge=1)

    def packages(self) -> dict[str, str]:
        """Optional packages that these options need: module to import -> the extra that brings it."""
        runtime = self.chosen_runtime()
        found = dict.fromkeys(("onnx", "onnxscript"), "onnx") if self.format == "onnx" else {}
        return found | ({runtime: _RUNTIME_EXTRAS[runtime]} if runtime in _RUNTIME_EXTRAS else {})

    def chosen_runtime(self) -> str:
        """The runtime that auto stands for."""
        return _RUNTIME_OF.get(self.format, ("eager",))[0] if self.runtime == "auto" else self.runtime

    def suffix(self) -> str:
        """What the file's name ends with where none is given."""
        return self.format if EXPORTERS.builtin(self.format) else self.format.rpartition(":")[2]

    @model_validator(mode="after")
    def _runtime_reads_the_format(self) -> ExportOptions:
        known = self.format in _RUNTIME_OF and RUNTIMES.builtin(self.runtime)  # what a user's own reads is not
        if known and self.chosen_runtime() not in _RUNTIME_OF[self.format]:
            raise ValueError(
                f"runtime {self.runtime!r} does not read {self.format}; choose {' or '.join(_RUNTIME_OF[self.format])}"
            )
        if self.format != "onnx" and "opset" in self.model_fields_set:
            raise ValueError(f"opset would be ignored: format is {self.format!r}")
        return self
