"""The runtime of a file's format."""

import pytest
import torch

from compresskit.export.options import ExportOptions
from compresskit.export.runtimes.auto import auto
from compresskit.export.tables import EXPORTERS

pytestmark = pytest.mark.integration


def test_an_onnx_file_runs_in_onnx_runtime(linear_exported):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    exported = linear_exported(".onnx")
    EXPORTERS.load("onnx")(exported.program, exported.path, ExportOptions())
    runner = auto(exported)
    assert type(runner.session).__name__ == "InferenceSession"
    torch.testing.assert_close(runner(exported.example), exported.module(exported.example).detach())


def test_a_file_of_no_known_format_runs_in_pytorch(linear_exported):
    exported = linear_exported(".bin")
    assert auto(exported) is exported.module
