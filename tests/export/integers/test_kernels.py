"""Kernels by node, from the graph that a runtime optimized."""

import numpy as np
import pytest

from compresskit.export.integers.kernels import Kernel, onnxruntime_kernels, openvino_kernels
from tests.export.exporters.onnx_files.test_graph_passes import QUANTIZED_CONV, conv_constants, graph_of, ir


def test_a_convolution_in_integers_needs_its_output_quantized_in_onnxruntime_and_not_in_openvino(tmp_path):
    openvino = pytest.importorskip("openvino")
    model = graph_of(QUANTIZED_CONV, **conv_constants([0.1, -0.2]))
    next(node for node in model.graph if node.op_type == "Conv").name = "layer"
    ir.save(model, tmp_path / "m.onnx")
    kernel = onnxruntime_kernels(tmp_path / "m.onnx", 1)["layer"]
    assert not kernel.integers and kernel.number_type == "float32"
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(tmp_path / "m.onnx"), "CPU", {"EXECUTION_MODE_HINT": "ACCURACY"})
    assert openvino_kernels(tmp_path / "m.onnx", compiled)["layer"].integers


def test_what_is_fused_goes_by_the_node_that_computes(tmp_path):
    body = QUANTIZED_CONV.replace("y = Conv", "v = Conv") + "r = Relu (v) q2 = QuantizeLinear (r, t, u) "
    given = conv_constants([0.1, -0.2]) | {"t": np.float32(0.02), "u": np.uint8(0)}
    model = graph_of(body + "y = DequantizeLinear (q2, t, u)", **given)
    next(node for node in model.graph if node.op_type == "Conv").name = "layer"
    ir.save(model, tmp_path / "m.onnx")
    assert onnxruntime_kernels(tmp_path / "m.onnx", 1)["layer"] == Kernel("QLinearConv", "int8")
