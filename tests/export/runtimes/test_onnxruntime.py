"""ONNX Runtime as a runtime."""

import pytest
import torch

from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.runtimes.onnxruntime import onnxruntime

pytestmark = pytest.mark.integration


def test_onnxruntime_computes_what_the_model_does(linear_exported):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    exported = linear_exported(".onnx")
    export_onnx(exported.program, exported.path)
    runner = onnxruntime(exported)
    for rows in (3, 5):
        inputs = torch.randn(rows, 6)
        torch.testing.assert_close(runner(inputs), exported.module(inputs).detach(), atol=1e-5, rtol=1e-4)
