"""OpenVINO's IR: the two files, integers in them, and names that do not fit."""

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.openvino import openvino
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.training.context import Context

pytestmark = pytest.mark.integration


def test_an_int8_model_is_written_with_integer_weights_and_runs(run, tmp_path):
    library = pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    loaded = run(scheme="int8-static").loaded
    path = tmp_path / "net.xml"
    facts = export(loaded, ExportOptions(format="openvino", rounds=0, samples=4), Context(original=loaded), path)
    assert facts["runtime"] == "openvino" and facts["agreement"] == 1.0
    assert facts["largest_difference"] < 0.02 * facts["output_scale"]
    assert facts["file_bytes"] == path.stat().st_size + path.with_suffix(".bin").stat().st_size
    constants = [node for node in library.Core().read_model(path).get_ops() if node.get_type_name() == "Constant"]
    integers = sum(np.prod(node.shape) for node in constants if node.get_element_type().get_type_name() == "i8")
    weights = sum(layer.weight_elements for layer in loaded.module.modules() if hasattr(layer, "weight_elements"))
    assert integers >= weights > 0


def test_a_file_whose_second_file_would_have_no_name_is_refused():
    with pytest.raises(InputError, match="ends in .xml, got 'net.bin'"):
        ExportOptions(format="openvino").check_name("net.bin")
    ExportOptions(format="onnx").check_name("net.bin")
    with pytest.raises(InputError, match="for files of format litert, not onnx; say --format litert, or name a file"):
        ExportOptions(format="onnx").check_name("net.tflite")


class Bags(nn.Module):
    """Bags of embeddings, which torch.onnx makes loops of, and circular padding, which OpenVINO does not read."""

    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.EmbeddingBag(10, 6), nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular")

    def forward(self, ids):
        return self.layer(self.table(ids)[:, None])


def test_bags_and_circular_padding(tmp_path):
    library = pytest.importorskip("openvino")
    ids, model = torch.randint(0, 10, (3, 4)), Bags().eval()
    openvino(export_program(model, ids), tmp_path / "bags.xml", ExportOptions(format="openvino"))
    found = library.Core().compile_model(tmp_path / "bags.xml", "CPU")(ids.numpy())
    torch.testing.assert_close(torch.from_numpy(found[0]), model(ids).detach(), atol=1e-2, rtol=1e-2)
