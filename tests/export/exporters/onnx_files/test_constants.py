"""Files are about as small as artifacts, and runtimes find the very same weights in them."""

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.export.exporters import onnx as exporter
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.runtimes.exported import Exported
from compresskit.export.runtimes.onnxruntime import onnxruntime
from compresskit.export.runtimes.openvino import openvino
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.integration


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.table = nn.Embedding(100, 50)
        self.rnn = kind(50, 32, batch_first=True, bidirectional=True)

    def forward(self, ids):
        return self.rnn(self.table(ids))[0]


def written(module, example, path, scheme, opset=21, **options):
    torch.manual_seed(0)
    loaded = Loaded(module.eval(), {}, example)
    if scheme:
        options = QuantizeOptions(scheme=scheme, first_last="same", **options)
        quantize(loaded, options, Context(original=loaded.clone()))
    program = export_program(loaded.module, example)
    export_onnx(program, path, opset=opset)
    return loaded, Exported(loaded.module, program, path, example, 1)


def check_equal(loaded, exported, example, tolerance=1e-6):
    for runtime in (onnxruntime, *([openvino] if _has_openvino() else [])):
        with torch.no_grad():
            found, wanted = runtime(exported)(example), loaded.module(example)
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=1e-5)


def _has_openvino():
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize(
    "kind, scheme, bytes_a_weight",
    [(nn.LSTM, "int8-weight", 1), (nn.GRU, "int4-weight", 0.5)],
)
def test_recurrent_weights_stay_integers(kind, scheme, bytes_a_weight, tmp_path):
    ids = torch.randint(0, 100, (2, 5))
    loaded, exported = written(Recurrent(kind), ids, tmp_path / "net.onnx", scheme)
    weights = sum(layer.weight_elements for layer in (loaded.module.table, loaded.module.rnn))
    graph = onnx.load(exported.path).graph
    floats = sum(np.prod(entry.dims) for entry in graph.initializer if entry.data_type == onnx.TensorProto.FLOAT)
    assert floats < weights / 8
    assert exported.path.stat().st_size < bytes_a_weight * weights + 25_000  # the graph, biases and scales
    check_equal(loaded, exported, ids)


@pytest.mark.parametrize("scheme, opset, share", [("codebook", 18, 1 / 4), ("mxfp4", 21, 1 / 7)])
def test_tables_and_codes_in_the_place_of_floats(scheme, opset, share, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Flatten(), nn.Linear(16 * 36, 50))
    loaded, exported = written(net, torch.randn(1, 3, 8, 8), tmp_path / "net.onnx", scheme, opset)
    floats = 4 * (16 * 27 + 50 * 16 * 36)
    assert exported.path.stat().st_size < share * floats + 8_000
    check_equal(loaded, exported, torch.randn(3, 3, 8, 8))


def test_weights_with_swapped_axes(tmp_path):
    net = nn.ConvTranspose2d(30, 20, 3)
    loaded, exported = written(net, torch.randn(1, 30, 4, 4), tmp_path / "net.onnx", "nf4")
    assert exported.path.stat().st_size < 30 * 20 * 9
    check_equal(loaded, exported, torch.randn(2, 30, 4, 4))


def test_zeros_take_a_bit(tmp_path):
    net = nn.Sequential(nn.Linear(203, 101), nn.ReLU(), nn.Linear(101, 3))
    with torch.no_grad():
        net[0].weight[torch.rand(101, 203) < 0.9] = 0
        net[0].weight[0, 0] = -0.0
    loaded, exported = written(net, torch.randn(1, 203), tmp_path / "net.onnx", None)
    assert exported.path.stat().st_size < 0.25 * 4 * 101 * 203
    check_equal(loaded, exported, torch.randn(2, 203))


def test_tied_weights_are_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(300, 40), nn.Linear(40, 300, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.table(ids))

    ids = torch.randint(0, 300, (1, 5))
    loaded, exported = written(Tied(), ids, tmp_path / "net.onnx", None)
    assert exported.path.stat().st_size < 1.1 * 4 * 300 * 40
    check_equal(loaded, exported, ids)


def test_equal_codes_are_stored_once(tmp_path):
    layers = [nn.Linear(100, 100, bias=False) for _ in range(3)]
    for layer in layers:
        layer.load_state_dict(layers[0].state_dict())
    _, exported = written(nn.Sequential(*layers), torch.randn(1, 100), tmp_path / "net.onnx", "int8-weight")
    assert exported.path.stat().st_size < 1.5 * 100 * 100


def test_four_bit_tables_of_embeddings(tmp_path):
    ids = torch.randint(0, 500, (1, 5))
    loaded, exported = written(nn.Sequential(nn.Embedding(500, 64)), ids, tmp_path / "net.onnx", "int4-weight")
    assert exported.path.stat().st_size < 0.6 * 500 * 64
    check_equal(loaded, exported, ids)


def test_four_bits_beside_integer_inputs_keep_their_kernels(images, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    loaded = Loaded(nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64)).eval(), {}, torch.randn(1, 64))
    options = QuantizeOptions(scheme="w4a8", first_last="same", reconstruct="none")
    quantize(loaded, options, Context(original=loaded.clone(), data=images((64,))))
    path = tmp_path / "net.onnx"
    export_onnx(export_program(loaded.module, loaded.example), path)
    assert path.stat().st_size < 0.5 * 2 * 64 * 96 + 6_000
    settings = runtime.SessionOptions()
    settings.optimized_model_filepath, settings.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    session = runtime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QGemm") == 2 and "Cast" not in kinds
    inputs = torch.randn(3, 64)
    with torch.no_grad():
        wanted = loaded.module(inputs)
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0])
    assert float((found - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


def test_large_constants_go_to_a_file_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "LARGEST_FILE_BYTES", 1000)
    loaded, exported = written(nn.Linear(64, 32), torch.randn(1, 64), tmp_path / "net.onnx", None)
    assert (tmp_path / "net.onnx.data").stat().st_size >= 4 * 64 * 32 and exported.path.stat().st_size < 4000
    check_equal(loaded, exported, torch.randn(2, 64))
