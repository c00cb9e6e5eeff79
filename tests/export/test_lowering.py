"""Export to files and back in the runtimes."""

import pytest
import torch

from compresskit.export.lowering import compare, export
from compresskit.export.options import ExportOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def static_model(run):
    return run(scheme="int8-static").loaded


def exported(loaded, path, **options):
    options = {"rounds": 0, "cold_start": "skip", "samples": 4, **options}
    return export(loaded, ExportOptions(**options), Context(original=loaded), path)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_onnx_agrees_with_the_fake_quantized_model(static_model, tmp_path, runtime):
    pytest.importorskip("onnxscript")
    pytest.importorskip(runtime)
    facts = exported(static_model, tmp_path / "model.onnx", runtime=runtime, batch_size=8, rounds=1)
    assert facts["agreement"] == 1.0
    assert facts["largest_difference"] < 0.02 * facts["output_scale"]
    assert facts["runtime"] == runtime and facts["latency_label"] == "executed"
    assert facts["file_bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert facts["latency_ms"] > 0


def test_onnx_holds_integer_weights_and_quantize_pairs(static_model, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    exported(static_model, tmp_path / "model.onnx", runtime="eager")
    graph = onnx.load(tmp_path / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("QuantizeLinear") == 5
    integers = {entry.name for entry in graph.initializer if entry.data_type == onnx.TensorProto.INT8}
    dequantized = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert len([name for name in integers & dequantized if "weight" in name]) == 4


def test_pt2_loads_again(static_model, tmp_path):
    facts = exported(static_model, tmp_path / "model.pt2", format="pt2", runtime="eager")
    assert facts["agreement"] == 1.0 and facts["latency_label"] == "simulated"
    inputs = torch.randn(3, 3, 8, 8)
    program = torch.export.load(tmp_path / "model.pt2").module()
    with torch.no_grad():
        wanted = static_model.module(inputs)
        assert float((program(inputs) - wanted).abs().max()) < 0.01 * float(wanted.abs().max())


@pytest.mark.parametrize(
    "dtype, scheme", [(torch.bfloat16, None), (torch.bfloat16, "int8-static"), (torch.float16, None)]
)
def test_16_bit_models_are_written_in_float32_and_the_report_says_so(loaded_net, images, tmp_path, dtype, scheme):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    loaded = loaded_net()
    loaded.module.to(dtype)
    if scheme:
        quantize(loaded, QuantizeOptions(scheme=scheme), Context(loaded, data=images((3, 8, 8))))
    with torch.no_grad():
        assert loaded.module(torch.randn(2, 3, 8, 8, dtype=dtype)).dtype is dtype
    facts = exported(loaded, tmp_path / "model.onnx", batch_size=8)
    assert facts["runtime"] == "onnxruntime" and facts["agreement"] == 1.0
    assert facts["largest_difference"] < 0.03 * facts["output_scale"]
    assert f"computes in float32, the model in {str(dtype).removeprefix('torch.')}" in facts["notes"]
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    halves = (onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT16)
    assert not [entry.name for entry in graph.initializer if entry.data_type in halves]


def test_comparison_by_hand():
    module = torch.nn.Identity()

    class Off(torch.nn.Module):
        def forward(self, x):
            return x + torch.tensor([0.0, 2.0])

    batch = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    assert compare(module, Off(), [batch]) == {
        "agreement": 0.5,
        "largest_difference": 2.0,
        "output_scale": 3.0,
        "compared_samples": 2,
    }


@pytest.mark.parametrize(
    "given, match",
    [
        ({"format": "pt2", "runtime": "openvino"}, "does not read pt2; choose inductor or eager"),
        ({"format": "onnx", "runtime": "inductor"}, "does not read onnx"),
        ({"format": "pt2", "opset": 20}, "opset would be ignored"),
        ({"runtime": "tensorrt"}, "unknown runtime 'tensorrt'"),
        ({"format": "pt2", "keep": "fastest"}, "keep fastest times layers in onnxruntime or openvino"),
    ],
)
def test_runtimes_that_do_not_read_the_format_are_refused(given, match):
    with pytest.raises(ValueError, match=match):
        ExportOptions(**given)


@pytest.mark.parametrize("name", ["nf4", "mxfp4", "nvfp4", "codebook"])
def test_weights_that_are_no_integers_are_codes_in_onnx_and_floats_elsewhere(loaded_net, tmp_path, name):
    pytest.importorskip("onnxscript")
    loaded = loaded_net()
    quantize(loaded, QuantizeOptions(scheme=name, first_last="same"), Context(original=loaded.clone()))
    facts = export(loaded, ExportOptions(rounds=0, batch_size=2), Context(original=loaded), tmp_path / "net.onnx")
    assert "notes" not in facts and facts["largest_difference"] < 1e-4 * facts["output_scale"]
    options = ExportOptions(rounds=0, format="pt2", runtime="eager")
    facts = export(loaded, options, Context(original=loaded), tmp_path / "net.pt2")
    assert facts["notes"] == f"{name} weights of 4 layers are float constants in the file"
