"""OpenVINO's IR: the two files, integers in them, and names that do not fit."""

import numpy as np
import pytest

from compresskit.core.errors import InputError
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.training.context import Context

pytestmark = pytest.mark.integration


def test_an_int8_model_is_written_with_integer_weights_and_runs(run, tmp_path):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    loaded = run(scheme="int8-static").loaded
    path = tmp_path / "net.xml"
    facts = export(loaded, ExportOptions(format="openvino", rounds=0, samples=4), Context(original=loaded), path)
    assert facts["runtime"] == "openvino" and facts["agreement"] == 1.0
    assert facts["largest_difference"] < 0.02 * facts["output_scale"]
    assert facts["file_bytes"] == path.stat().st_size + path.with_suffix(".bin").stat().st_size
    constants = [node for node in openvino.Core().read_model(path).get_ops() if node.get_type_name() == "Constant"]
    integers = sum(np.prod(node.shape) for node in constants if node.get_element_type().get_type_name() == "i8")
    weights = sum(layer.weight_elements for layer in loaded.module.modules() if hasattr(layer, "weight_elements"))
    assert integers >= weights > 0


def test_a_file_whose_second_file_would_have_no_name_is_refused():
    with pytest.raises(InputError, match="ends in .xml, got 'net.bin'"):
        ExportOptions(format="openvino").check_name("net.bin")
    ExportOptions(format="onnx").check_name("net.bin")
    with pytest.raises(InputError, match="for files of format litert, not onnx; say --format litert, or name a file"):
        ExportOptions(format="onnx").check_name("net.tflite")
