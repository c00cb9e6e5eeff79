"""OpenVINO's intermediate representation."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from ...core.errors import InputError, require
from ..options import ExportOptions
from ..runtimes.openvino import ABOUT, reason
from .export_program import DESCRIPTION
from .onnx import as_strings, onnx


def openvino(program: torch.export.ExportedProgram, path: Path, options: ExportOptions) -> list[str]:
    """Write an exported program as an .xml file and its weights as a .bin beside it.

    It goes through our ONNX graph, whose quantize/dequantize pairs OpenVINO keeps in integers; floats stay in 32 bits.

    Raises:
        InputError: if a package is missing, or an operator has no form in ONNX or OpenVINO.
    """
    runtime = require("openvino", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        notes = onnx(program, graph, options)
        try:
            model = runtime.Core().read_model(str(graph))
            for key, text in as_strings(program.graph_module.meta.get(DESCRIPTION, {})).items():
                model.set_rt_info(text, [ABOUT, key])
            runtime.save_model(model, str(path), compress_to_fp16=False)
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot write this model: {reason(error)}") from error
    return notes
