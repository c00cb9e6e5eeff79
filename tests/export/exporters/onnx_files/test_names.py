"""What an ONNX file says to a stranger, and what it keeps to itself."""

import getpass
from pathlib import Path

import pytest
import torch
from torch import nn

from compresskit.core.types import call
from compresskit.export.comparison import differences
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.exporters.onnx_files.names import name_dimensions
from compresskit.export.runtimes.exported import Exported
from compresskit.export.runtimes.onnxruntime import onnxruntime

onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.output = nn.Linear(4, 3)

    def forward(self, image, mask):
        hidden = self.output(image)
        return {"logits": hidden, "mask": mask, "again": hidden, "image": [hidden * mask, image]}


class Loops(nn.Module):
    def forward(self, values):
        return torch.cond(values.sum() > 0, lambda x: x + 1, lambda x: x - 1, (values,))


def written(module, example, path):
    program = export_program(module.eval(), example)
    export_onnx(program, path)
    return onnx.load(path), onnxruntime(Exported(module, program, path, example, 1))


@pytest.mark.integration
def test_inputs_outputs_and_dimensions_have_names(tmp_path):
    example = (torch.randn(2, 4), torch.ones(2, 3))
    module = Heads()
    model, runner = written(module, example, tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [entry.name for entry in model.graph.input] == ["image", "mask"]
    # an output may not have an input's name
    names = ["logits", "mask_out", "again", "image_0", "image_1"]
    assert [entry.name for entry in model.graph.output] == names
    dimensions = [entry.type.tensor_type.shape.dim[0].dim_param for entry in (*model.graph.input, *model.graph.output)]
    assert set(dimensions) == {"batch"}
    with torch.no_grad():
        gaps = differences(call(module, example), call(runner, example))
    assert set(gaps) == {"logits", "mask", "again", "image_0", "image_1"} and max(gaps.values()) < 1e-6


@pytest.mark.integration
def test_an_inner_value_of_an_outputs_name_makes_way(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_parameter("output", nn.Parameter(torch.tensor([2.0, 3.0])))

        def forward(self, *, values):
            return values * self.output

    model, runner = written(Net(), {"values": torch.ones(1, 2)}, tmp_path / "model.onnx")
    assert [entry.name for entry in model.graph.input] == ["values"]
    assert [entry.name for entry in model.graph.output] == ["output"]
    assert call(runner, {"values": torch.ones(3, 2)}).tolist() == [[2.0, 3.0]] * 3


@pytest.mark.integration
@pytest.mark.parametrize(
    "module, example", [(Heads(), (torch.randn(1, 4), torch.ones(1, 3))), (Loops(), torch.ones(1, 4))]
)
def test_the_bytes_name_no_path_no_code_and_nobody(module, example, tmp_path):
    model, _ = written(module, example, tmp_path / "model.onnx")
    content = (tmp_path / "model.onnx").read_bytes()
    here = Path(__file__)
    for text in (here.name, here.parent.name + "/", "site-packages", "File ", "stack_trace", "lambda", "__main__"):
        assert text.encode() not in content, text
    assert str(Path.home()).encode() + b"/" not in content
    assert f"/{getpass.getuser()}/".encode() not in content
    assert not model.doc_string and not model.graph.doc_string and not model.graph.metadata_props
    kept = {entry.key for node in model.graph.node for entry in node.metadata_props}
    assert kept == {"pkg.torch.onnx.name_scopes"}  # which layer it came from
    assert not any(node.doc_string for node in model.graph.node)
    for entry in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        assert not entry.metadata_props and not entry.doc_string


def test_dimensions_are_renamed_in_sums_and_products():
    graph = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 21]> '
        'g (float[s1,3] s1) => (float["2*s1 + s12",3] y) { y = Identity (s1) }'
    ).graph
    name_dimensions(graph, {"s1": "batch"})
    assert str(graph.inputs[0].shape[0]) == "batch" and "2*batch + s12" in str(graph.outputs[0].shape)
