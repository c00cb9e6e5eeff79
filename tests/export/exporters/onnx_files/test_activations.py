"""Activation functions and moves between codes: the same numbers, computed in integers."""

import numpy as np
import pytest

from compresskit.export.exporters.onnx_files import activations
from tests.export.exporters.onnx_files.test_graph_passes import QUANTIZED_CONV, conv_constants, graph_of, result

ir = pytest.importorskip("onnx_ir")
onnx = pytest.importorskip("onnx")

CODES = "q = QuantizeLinear (x, s, z) c = DequantizeLinear (q, s, z) "
OUT = "o = QuantizeLinear (p, t, u) y = DequantizeLinear (o, t, u)"


def constants(low=-1.0):
    """Codes of 0.01 for what is read, and of the same step from `low` on for what is written."""
    return {
        "s": np.float32(0.01), "z": np.uint8(100), "t": np.float32(0.01), "u": np.uint8(round(-low / 0.01)),
    }  # fmt: skip


def operators_run(model, tmp_path):
    result(model, tmp_path / "optimized.onnx")
    return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


@pytest.mark.parametrize(
    "body, wanted",
    [
        ("g = Sigmoid (c) p = Mul (c, g)", {"QLinearSigmoid", "QLinearMul"}),
        ("p = HardSwish (c)", {"QLinearAdd", "QLinearMul"}),
        ("g = HardSigmoid <alpha=0.2, beta=0.5> (c) p = Mul (c, g)", {"QLinearAdd", "QLinearMul"}),
    ],
)
def test_swish_between_codes_runs_in_integers_and_is_off_by_a_step_at_most(tmp_path, body, wanted):
    model = graph_of(f"{CODES} {body} {OUT}", **constants())
    before = result(model)
    activations.finish(model.graph, "onnxruntime")
    assert np.abs(result(model) - before).max() <= 0.0101
    ran = operators_run(model, tmp_path)
    assert wanted <= set(ran) and not {"Sigmoid", "HardSigmoid", "Mul"} & set(ran)


def test_a_hard_sigmoid_whose_codes_reach_beyond_one_stays():
    model = graph_of(f"{CODES} p = HardSigmoid (c) {OUT}", **constants(low=0.0))  # codes to 2.55: nothing would cut
    assert activations.added_hard_sigmoids(model.graph) == 0


@pytest.mark.parametrize("move", ["MaxPool <kernel_shape=[2, 2]> (c)", "Transpose <perm=[0, 1, 3, 2]> (c)"])
def test_what_moves_codes_moves_them_as_integers(move):
    model = graph_of(f"{CODES} m = {move} p = Add (m, m) {OUT}", **constants())
    before = result(model)
    assert activations.moved_codes(model.graph) == 1
    moved = next(node for node in model.graph if node.op_type in move).outputs[0]
    assert [user.op_type for user, _ in moved.uses()] == ["QuantizeLinear"]
    np.testing.assert_array_equal(result(model), before)


def test_one_quantizer_is_left_where_a_move_was_quantized_by_one_reader_already():
    model = graph_of(
        f"{CODES} a, b = Split <num_outputs=2, axis=1> (c) aq = QuantizeLinear (a, s, z)"
        f" ad = DequantizeLinear (aq, s, z) p = Add (ad, a) {OUT}",
        **constants(),
    )
    before = result(model)
    activations.moved_codes(model.graph)
    left = next(node for node in model.graph if node.op_type == "Split").outputs[0]
    assert [user.op_type for user, _ in left.uses()] == ["QuantizeLinear"]
    np.testing.assert_array_equal(result(model), before)


def test_openvino_gets_an_activation_right_behind_its_layer():
    body = (
        QUANTIZED_CONV.replace("y = Conv", "v = Conv")
        + """
    q2 = QuantizeLinear (v, t, u) c = DequantizeLinear (q2, t, u) g = Sigmoid (c) p = Mul (c, g) """
    )
    model = graph_of(f"{body} {OUT}", **(constants() | conv_constants([0.1, -0.2])))
    assert activations.fused_activations(model.graph) == 1
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert {user.op_type for user, _ in conv.outputs[0].uses()} == {"Sigmoid", "Mul"}


def test_an_activation_that_is_not_quantized_again_keeps_its_quantizer():
    body = (
        QUANTIZED_CONV.replace("y = Conv", "v = Conv")
        + """
    q2 = QuantizeLinear (v, t, u) c = DequantizeLinear (q2, t, u) y = Sigmoid (c)"""
    )
    model = graph_of(body, **(constants() | conv_constants([0.1, -0.2])))
    assert activations.fused_activations(model.graph) == 0


def test_openvino_gets_floats_where_a_table_is_added_to_joined_patches():
    body = "j = Concat <axis=2> (r, c) y = Add (j, table)"
    given = constants() | {"r": np.ones((1, 2, 1, 3), np.float32), "table": np.ones((1, 2, 4, 3), np.float32)}
    model = graph_of(f"{CODES} {body}", **given)
    before = result(model)
    assert activations.floats_plus_constants(model.graph) == 1
    assert [node.op_type for node in model.graph] == ["Concat", "Add"]
    assert 0 < np.abs(result(model) - before).max() <= 0.0051  # half a step
    one = graph_of(f"{CODES} y = Add (c, table)", **(given | {"table": np.float32(1)}))
    assert activations.floats_plus_constants(one.graph) == 0


def test_openvino_gets_floats_where_ranges_would_be_found_in_every_run():
    model = graph_of("q, s, z = DynamicQuantizeLinear (x) c = DequantizeLinear (q, s, z) y = Relu (c)")
    before = result(model)
    activations.finish(model.graph, "openvino")
    assert [node.op_type for node in model.graph] == ["Relu"]
    assert np.abs(result(model) - before).max() <= 1 / 255
