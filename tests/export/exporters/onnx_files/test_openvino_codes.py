"""Quantizers that OpenVINO gains nothing from."""

import numpy as np
import pytest

from compresskit.export.exporters.onnx_files import openvino_codes
from tests.export.exporters.onnx_files.test_activations import CODES, OUT, constants
from tests.export.exporters.onnx_files.test_graph_passes import QUANTIZED_CONV, conv_constants, graph_of, result

pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

SPLIT = f"{CODES} a, b = Split <num_outputs=2, axis=1> (c)"


def operators(model):
    return [node.op_type for node in model.graph]


def test_codes_that_were_only_moved_are_not_quantized_again():
    model = graph_of(
        f"{SPLIT} aq = QuantizeLinear (a, s, z) ad = DequantizeLinear (aq, s, z) p = Add (ad, b) {OUT}", **constants()
    )
    before = result(model)
    assert openvino_codes.codes_moved_as_they_are(model.graph) == 1
    assert operators(model)[:4] == ["QuantizeLinear", "DequantizeLinear", "Split", "Add"]
    np.testing.assert_array_equal(result(model), before)


@pytest.mark.parametrize(
    "again",
    [
        "QuantizeLinear (a, t, u) ad = DequantizeLinear (aq, t, u)",  # another range
        "QuantizeLinear (r, s, z) ad = DequantizeLinear (aq, s, z)",
    ],
)  # other values
def test_another_range_or_other_values_are_quantized(again):
    given = constants(low=-0.5)
    model = graph_of(f"{SPLIT} r = Sqrt (a) aq = {again} p = Add (ad, b) {OUT}", **given)
    assert openvino_codes.codes_moved_as_they_are(model.graph) == 0


def test_a_part_that_is_only_joined_is_rounded_once():
    part = "r = Relu (x) rq = QuantizeLinear (r, v, z) rd = DequantizeLinear (rq, v, z)"
    body = f"{CODES} {part} p = Concat <axis=1> (c, rd) {OUT}"
    model = graph_of(body, **constants(), v=np.float32(0.013))
    before = result(model)
    assert openvino_codes.parts_rounded_once(model.graph) == 2
    assert operators(model) == ["Relu", "Concat", "QuantizeLinear", "DequantizeLinear"]
    exact = np.linspace(-1, 1, 18, dtype=np.float32).reshape(1, 2, 3, 3)
    exact = np.concatenate([exact, np.maximum(exact, 0)], 1)
    assert np.abs(result(model) - exact).max() < np.abs(before - exact).max()


def test_a_part_that_another_layer_reads_keeps_its_codes():
    body = f"{CODES} p = Concat <axis=1> (c, c) {OUT.replace('y =', 'w =')} y = Add (c, c)"
    assert openvino_codes.parts_rounded_once(graph_of(body, **constants()).graph) == 0


def test_a_layer_whose_codes_only_reach_the_output_returns_floats():
    head = QUANTIZED_CONV.replace("y = Conv", "v = Conv")
    body = f"{head} o = QuantizeLinear (v, t, u) e = DequantizeLinear (o, t, u) m = Flatten (e) y = Softmax (m)"
    model = graph_of(body, **(constants() | conv_constants([0.1, -0.2])))
    assert openvino_codes.floats_at_the_end(model.graph) == 1
    assert operators(model)[-3:] == ["Conv", "Flatten", "Softmax"]
    assert operators(model)[0] == "QuantizeLinear"  # what the convolution itself reads


@pytest.mark.parametrize("reader", ["k = Flatten (e) y = MatMul (k, full)", "p = Exp (e) {out}"])
def test_codes_that_a_layer_or_a_quantizer_reads_stay(reader):
    out = OUT.replace("o =", "o2 =").replace("(o,", "(o2,")
    body = f"o = QuantizeLinear (x, t, u) e = DequantizeLinear (o, t, u) {reader.format(out=out)}"
    model = graph_of(body, **constants(), full=np.ones((18, 2), np.float32))
    assert openvino_codes.floats_at_the_end(model.graph) == 0
