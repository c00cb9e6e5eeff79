"""Passes over ONNX graphs: the same numbers, in integers, in fewer bytes."""

from dataclasses import replace

import numpy as np
import pytest

from compresskit.core.types import Loaded
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.exporters.onnx_files import graph_passes
from compresskit.export.runtimes.exported import Exported
from compresskit.export.runtimes.openvino import openvino
from compresskit.quantization.layers.quantized_layer import quantized_layers
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

ir = pytest.importorskip("onnx_ir")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

RANDOM = np.random.default_rng(0)


def graph_of(body, **constants):
    """A model of one input x (1, 2, 3, 3) and one output y, with named constants."""
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    main (float[1,2,3,3] x) => (float y) {{ {body} }}"""
    model = ir.from_onnx_text(text)
    for name, array in constants.items():
        for value in [v for node in model.graph for v in node.inputs if v is not None and v.name == name]:
            if value.name not in model.graph.initializers:
                value.const_value = ir.tensor(array, name=name)
                value.shape, value.type = value.const_value.shape, ir.TensorType(value.const_value.dtype)
                model.graph.register_initializer(value)
    return model


def result(model, optimized_path=None):
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    if optimized_path:
        settings.optimized_model_filepath = str(optimized_path)
    serialized = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(serialized, settings, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.linspace(-1, 1, 18, dtype=np.float32).reshape(1, 2, 3, 3)})[0]


QUANTIZED_CONV = """
    q = QuantizeLinear (x, s, z)
    d = DequantizeLinear (q, s, z)
    w = DequantizeLinear <axis=0> (codes, scales, zeros)
    y = Conv (d, w, bias)
"""


def conv_constants(bias):
    return {
        "s": np.float32(0.01), "z": np.uint8(100), "codes": RANDOM.integers(-60, 60, (2, 2, 3, 3)).astype(np.int8),
        "scales": np.array([0.5, 0.25], np.float32), "zeros": np.zeros(2, np.int8), "bias": np.array(bias, np.float32),
    }  # fmt: skip


def test_a_bias_takes_the_product_of_its_layers_scales():
    model = graph_of(QUANTIZED_CONV, **conv_constants([0.1, -0.2]))
    before = result(model)
    assert graph_passes.integer_biases(model.graph) == 1
    codes = next(v.const_value.numpy() for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT32)
    # 0.1 / (0.01 * 0.5), -0.2 / (0.01 * 0.25)
    assert codes.tolist() == [20, -80]
    np.testing.assert_allclose(result(model), before, atol=1e-5)


def test_a_bias_beyond_32_bits_stays_in_float():
    model = graph_of(QUANTIZED_CONV, **conv_constants([1e9, 0.0]))
    assert graph_passes.integer_biases(model.graph) == 0


@pytest.mark.parametrize("keepdims", [0, 1])
def test_means_over_the_image_become_pooling(keepdims):
    model = graph_of(f"y = ReduceMean <keepdims={keepdims}> (x, axes)", axes=np.array([-1, 2], np.int64))
    before = result(model)
    assert graph_passes.pooled_means(model.graph) == 1
    assert "GlobalAveragePool" in [node.op_type for node in model.graph]
    np.testing.assert_allclose(result(model), before, atol=1e-6)
    assert result(model).shape == before.shape


def test_means_over_channels_stay():
    model = graph_of("y = ReduceMean (x, axes)", axes=np.array([1, 2], np.int64))
    assert graph_passes.pooled_means(model.graph) == 0


WEIGHT_ONLY_CONV = """
    w = DequantizeLinear <axis=0> (codes, scales, zeros)
    y = Conv (x, w, bias)
"""


@pytest.mark.parametrize("largest, changed", [(7, 1), (8, 0)])
def test_codes_that_fit_take_four_bits(largest, changed):
    constants = conv_constants([0.0, 0.0])
    constants["codes"] = np.full((2, 2, 3, 3), largest, np.int8)
    constants["codes"][0, 0, 0, 0] = -8
    model = graph_of(WEIGHT_ONLY_CONV, **constants)
    before = result(model)
    assert graph_passes.four_bit_weights(model.graph) == changed
    np.testing.assert_array_equal(result(model), before)
    sizes = sorted(v.const_value.nbytes for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT4)
    assert sizes == ([1, 18] if changed else [])  # two zero points, and 36 weights


def test_weights_beside_integer_inputs_keep_eight_bits():
    constants = conv_constants([0.0, 0.0])
    constants["codes"] = np.ones((2, 2, 3, 3), np.int8)
    model = graph_of(QUANTIZED_CONV, **constants)
    assert graph_passes.four_bit_weights(model.graph) == 0


@pytest.mark.integration
@pytest.mark.parametrize("activations", ["static", "dynamic"])
def test_activations_of_few_bits_keep_their_ends(activations, images, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)]
    loaded = Loaded(torch.nn.Sequential(*layers).eval(), {}, torch.randn(1, 6))
    options = QuantizeOptions(scheme="w4a4", first_last="same", reconstruct="none")
    quantize(loaded, options, Context(original=loaded.clone(), data=images((6,))))
    for layer in quantized_layers(loaded.module).values():
        assert layer.spec.input_bits == 4
        if activations == "dynamic":
            layer.spec = replace(layer.spec, input="dynamic")
    export_onnx(export_program(loaded.module, loaded.example), tmp_path / "model.onnx")
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = 4 * torch.randn(64, 6)  # far beyond what was calibrated
    with torch.no_grad():
        wanted = loaded.module(inputs)
    found = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]
    differences = (torch.from_numpy(found) - wanted).abs().amax(1)
    assert float(differences.median()) < 3e-3 * float(wanted.abs().max())  # biases are rounded too


@pytest.mark.integration
def test_an_exported_network_runs_in_integers_throughout(images, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    conv = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    loaded = Loaded(torch.nn.Sequential(*conv, torch.nn.Linear(8, 4)).eval(), {}, torch.randn(1, 3, 8, 8))
    quantize(loaded, QuantizeOptions(scheme="int8-static"), Context(original=loaded.clone(), data=images((3, 8, 8))))
    assert export_onnx(export_program(loaded.module, loaded.example), tmp_path / "model.onnx") == []
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.log_severity_level = 3
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in ir.load(tmp_path / "optimized.onnx").graph}
    assert {"QLinearConv", "QLinearGlobalAveragePool", "QGemm"} <= kinds
    assert not {"Conv", "Gemm", "DequantizeLinear"} & kinds
    inputs = torch.randn(6, 3, 8, 8)
    with torch.no_grad():
        wanted = loaded.module(inputs)
    found = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]
    assert float((torch.from_numpy(found) - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


@pytest.mark.integration
def test_operator_sets_without_four_bit_types_are_noted(images, tmp_path):
    torch = pytest.importorskip("torch")
    loaded = Loaded(torch.nn.Sequential(torch.nn.Linear(64, 64)).eval(), {}, torch.randn(1, 64))
    options = QuantizeOptions(scheme="int4-weight", first_last="same")
    quantize(loaded, options, Context(original=loaded.clone()))
    program = export_program(loaded.module, loaded.example)
    assert export_onnx(program, tmp_path / "new.onnx") == []
    (note,) = export_onnx(program, tmp_path / "old.onnx", opset=20)
    assert note == "weights that would fit into 4 bits take 8 (1 of them): operator sets below 21 have no four-bit type"
    assert (tmp_path / "new.onnx").stat().st_size < (tmp_path / "old.onnx").stat().st_size - 1900
    inputs = torch.randn(2, 64)
    for name in ("new", "old"):
        session = ort.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), loaded.module(inputs))


@pytest.mark.integration
@pytest.mark.parametrize("weight_range", ["symmetric", "affine"])
def test_group_scales_become_blocks_and_a_four_bit_kernel(weight_range, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    # the last layer's 72 columns are two whole groups of 32 and a quarter of one
    body = [torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Unflatten(1, (2, 32)), torch.nn.Linear(32, 36)]
    body += [torch.nn.Conv1d(2, 2, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(72, 6)]
    loaded = Loaded(torch.nn.Sequential(*body).eval(), {}, torch.randn(1, 64))
    options = QuantizeOptions(
        scheme="int4-weight", granularity="group", group_size=32, first_last="same", weight_range=weight_range
    )
    quantize(loaded, options, Context(original=loaded.clone()))
    inputs = torch.randn(3, 64)
    with torch.no_grad():
        wanted = loaded.module(inputs)
    program = export_program(loaded.module, loaded.example)
    for opset in (21, 18):
        path = tmp_path / f"{opset}.onnx"
        export_onnx(program, path, opset=opset)
        settings = ort.SessionOptions()
        settings.optimized_model_filepath = str(tmp_path / f"optimized{opset}.onnx")
        # else this kernel rounds its input to eight bits
        settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        settings.log_severity_level = 3
        session = ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    blocks = [node for node in ir.load(tmp_path / "21.onnx").graph if node.op_type == "DequantizeLinear"]
    assert {node.attributes.get_int("block_size") for node in blocks} == {32}
    assert {node.inputs[0].dtype for node in blocks} == {ir.DataType.INT4}
    kernels = [node.op_type for node in ir.load(tmp_path / "optimized21.onnx").graph]
    assert kernels.count("MatMulNBits") == 2
    pytest.importorskip("openvino")
    runner = openvino(Exported(loaded.module, program, tmp_path / "21.onnx", inputs, threads=1))
    np.testing.assert_allclose(runner(inputs).numpy(), wanted.numpy(), atol=1e-3)


@pytest.mark.integration
def test_openvino_reads_four_bit_weights(run, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("openvino")
    loaded = run(scheme="int4-weight").loaded
    program = export_program(loaded.module, loaded.example)
    export_onnx(program, tmp_path / "model.onnx")
    inputs = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        wanted = loaded.module(inputs)
    runner = openvino(Exported(loaded.module, program, tmp_path / "model.onnx", inputs, threads=1))
    torch.testing.assert_close(runner(inputs), wanted, atol=1e-3, rtol=1e-3)
