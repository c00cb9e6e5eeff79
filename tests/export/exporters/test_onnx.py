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


class _Reshaped(torch.nn.Module):
    """Attention whose result is reshaped twice, which copies nothing where it is traced."""

    def forward(self, x):
        heads = x.view(*x.shape[:2], 2, 4).transpose(1, 2)
        mask = torch.zeros(x.shape[1], x.shape[1])
        mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
        return mixed.reshape(x.shape[0], -1, x.shape[1], 4).transpose(1, 2).reshape(*x.shape[:2], -1)


class _Viewed(torch.nn.Module):
    """The same, viewed."""

    def forward(self, x):
        heads = x.view(*x.shape[:2], 2, 4).transpose(1, 2)
        mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        return mixed.transpose(1, 2).view(*x.shape[:2], 8)


@pytest.mark.parametrize("kind", [_Reshaped, _Viewed])
def test_what_attention_returns_may_be_viewed(tmp_path, kind):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, example = kind(), torch.randn(2, 5, 8)
    export_onnx(export_program(module, example), tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    inputs = torch.randn(3, 5, 8)
    found = torch.from_numpy(session.run(None, {"x": inputs.numpy()})[0])
    torch.testing.assert_close(found, module(inputs), atol=1e-6, rtol=1e-5)
