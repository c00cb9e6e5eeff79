"""A fresh process that loads a file and runs it once."""

import pytest
import torch

from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.measures.cold_start import ColdStart, cold_start

pytestmark = pytest.mark.integration


def test_a_file_is_loaded_and_run(linear_exported):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    exported = linear_exported(".onnx")
    export_onnx(exported.program, exported.path)
    found = cold_start(str(exported.path), "onnxruntime", exported.example, 1)
    assert isinstance(found, ColdStart), found
    assert found.load_ms > 0 and found.first_run_ms > 0 and found.peak_memory_bytes > 0
    assert found.record()["cold_start_ms"] == found.load_ms + found.first_run_ms


def test_what_fails_says_why(tmp_path):
    assert cold_start("x", "inductor", torch.zeros(1), 1) == "not measured in runtime inductor"
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    found = cold_start(str(tmp_path / "bad.onnx"), "onnxruntime", torch.zeros(1), 1)
    assert isinstance(found, str) and found
