"""ONNX files."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx, onnx
from compresskit.export.options import ExportOptions

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("opset", [18, 21])
def test_a_file_is_of_the_operator_set_that_is_asked_for(linear_exported, opset):
    library = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    exported = linear_exported(".onnx")
    assert onnx(exported.program, exported.path, ExportOptions(opset=opset)) == []
    model = library.load(exported.path)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [opset]
    assert [node.op_type for node in model.graph.node] == ["Gemm"]


def test_an_operation_without_a_form_in_onnx_is_named(tmp_path):
    pytest.importorskip("onnxscript")

    class Eigenvalues(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.eigvalsh(x)

    program = export_program(Eigenvalues(), torch.eye(3).expand(2, 3, 3).contiguous())
    with pytest.raises(InputError, match="torch.onnx cannot write this model"):
        export_onnx(program, tmp_path / "model.onnx")
