"""Exported files as models."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.core.types import Preprocessing
from compresskit.export.exporters.export_program import DESCRIPTION
from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.opening import format_of, is_file, open_file, preprocessing_in
from compresskit.export.options import ExportOptions
from compresskit.export.tables import EXPORTERS

pytestmark = pytest.mark.integration
ABOUT = {"preprocessing": {"size": [8, 6], "mean": [0.5], "std": [0.25], "order": "gray"}, "labels": ["a", "b"]}


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_file_runs_and_says_what_it_takes(linear_exported, name):
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino" if name == "openvino" else "onnxruntime")
    exported = linear_exported(EXPORTERS[name].attributes["suffix"])
    exported.program.graph_module.meta[DESCRIPTION] = ABOUT
    EXPORTERS.load(name)(exported.program, exported.path, ExportOptions(format=name))
    loaded = open_file(str(exported.path))
    assert loaded.example.shape == (1, 6) and loaded.module.about["labels"] == ["a", "b"]
    assert loaded.preprocessing == Preprocessing((0.5,), (0.25,), (8, 6), 1)
    wanted = exported.module(exported.example).detach()
    torch.testing.assert_close(loaded.module(exported.example), wanted, atol=1e-5, rtol=1e-4)


def test_sizes_that_a_file_leaves_open_are_asked_for(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    free = {"x": {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}}

    class Doubled(torch.nn.Module):
        def forward(self, x):
            return x * 2

    export_onnx(torch.export.export(Doubled(), (torch.ones(2, 3),), dynamic_shapes=free), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="leaves sizes of its input 'x' open; give them as --input x=N"):
        open_file(str(tmp_path / "m.onnx"))
    assert open_file(str(tmp_path / "m.onnx"), inputs=["x=5"]).example["x"].shape == (1, 5)


@pytest.mark.parametrize(
    "name, content, match",
    [
        ("missing.onnx", None, "does not exist"),
        ("bad.onnx", b"no graph", "cannot load 'bad.onnx'"),
        ("bad.xml", b"<net", "cannot load 'bad.xml'"),
        ("model.gguf", b"GGUF", "GGUF files run in llama.cpp"),
        ("bad.pt2", b"", "is not a .pt2 archive"),
    ],
)
def test_files_that_do_not_run_are_refused(tmp_path, name, content, match):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=match):
        open_file(str(path))


def test_a_runtime_that_does_not_read_the_file_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match="runtime 'executorch' does not read onnx"):
        open_file(str(tmp_path / "m.onnx"), runtime="executorch")


def test_what_is_a_file():
    assert is_file("a/b.onnx") and is_file("x.pte") and format_of("m.xml") == "openvino"
    assert not is_file("torchvision:resnet18") and not is_file("runs/int8") and not is_file("net.py:make")
    assert preprocessing_in({"preprocessing": {"size": "wide"}}) == Preprocessing()
