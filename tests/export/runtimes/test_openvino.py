"""OpenVINO as a runtime."""

import pytest
import torch

from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.runtimes.openvino import openvino

pytestmark = pytest.mark.integration


def test_openvino_computes_what_the_model_does(linear_exported):
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    exported = linear_exported(".onnx")
    export_onnx(exported.program, exported.path)
    runner = openvino(exported)
    for rows in (3, 5):
        inputs = torch.randn(rows, 6)
        torch.testing.assert_close(runner(inputs), exported.module(inputs).detach(), atol=1e-5, rtol=1e-4)
