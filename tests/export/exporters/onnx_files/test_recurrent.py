"""LSTMs of bytes as the operator that ONNX Runtime computes in integers."""

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.integers.compute_nodes import compute_nodes
from compresskit.export.runtimes.exported import Exported
from compresskit.export.runtimes.onnxruntime import onnxruntime
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.integration


class Tagger(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.rnn, self.head = nn.LSTM(12, 16, batch_first=True, **options), nn.LazyLinear(5)

    def forward(self, values):
        outputs, (state, _) = self.rnn(values)
        return self.head(outputs), state


def written(path, scheme, runtime="onnxruntime", **options):
    torch.manual_seed(0)
    module, example = Tagger(**options).eval(), torch.randn(2, 7, 12)
    module(example)
    loaded = Loaded(module, {}, example)
    quantize(loaded, QuantizeOptions(scheme=scheme, first_last="same"), Context(original=loaded.clone()))
    program = export_program(loaded.module, example)
    notes = export_onnx(program, path, runtime=runtime)
    return Exported(loaded.module, program, path, example, 1), notes


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}, {"bias": False}])
def test_an_lstm_with_integer_activations_runs_in_integers_and_returns_all_that_it_did(tmp_path, options):
    exported, notes = written(tmp_path / "net.onnx", "int8-dynamic", **options)
    nodes = onnx.load(exported.path).graph.node
    assert "LSTM" not in [node.op_type for node in nodes]
    layers = options.get("num_layers", 1)
    assert [node.op_type for node in nodes].count("DynamicQuantizeLSTM") == layers
    assert notes[0].startswith(f"{layers} LSTM") and "ONNX Runtime alone" in notes[0]
    inputs = torch.randn(3, 7, 12)
    with torch.no_grad():
        found, wanted = onnxruntime(exported)(inputs), exported.module(inputs)
    for own, other in zip(found, wanted, strict=True):
        assert own.shape == other.shape and float((own - other).abs().max()) < 0.03
    computing = compute_nodes(exported.path, {"values": inputs})
    own = [node for node in computing if node.operation == "DynamicQuantizeLSTM"]
    gates = 3 * 7 * 4 * 16 * (12 + 16) * (2 if options.get("bidirectional") else 1)
    assert own[0].macs == gates and own[0].floats == () and own[0].layer == "rnn"
    width = 32 if "bidirectional" in options else 16
    assert [node.macs for node in computing if node.layer == "head"] == [3 * 7 * 5 * width]


def test_its_weights_are_the_codes_and_scales_of_the_layer_in_onnx_order(tmp_path):
    exported, _ = written(tmp_path / "net.onnx", "int8-dynamic")
    held = {entry.name: onnx.numpy_helper.to_array(entry) for entry in onnx.load(exported.path).graph.initializer}
    (node,) = (one for one in onnx.load(exported.path).graph.node if one.op_type == "DynamicQuantizeLSTM")
    codes, scales = held[node.input[1]], held[node.input[8]]
    assert codes.dtype == np.int8 and codes.shape == (1, 12, 64) and scales.shape == (1, 64)
    wanted = exported.module.rnn.weight_ih_l0.detach().numpy()
    gates = np.split(wanted, 4)  # PyTorch: input, forget, cell, output
    np.testing.assert_allclose((codes[0] * scales[0]).T, np.concatenate([gates[i] for i in (0, 3, 1, 2)]), rtol=1e-6)


@pytest.mark.parametrize("scheme, runtime", [("int8-weight", "onnxruntime"), ("int8-dynamic", "openvino")])
def test_it_stays_in_float_without_integer_activations_and_for_other_runtimes(tmp_path, scheme, runtime):
    exported, notes = written(tmp_path / "net.onnx", scheme, runtime)
    kinds = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert "LSTM" in kinds and "DynamicQuantizeLSTM" not in kinds and not notes
