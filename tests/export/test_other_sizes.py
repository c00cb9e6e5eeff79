"""Files of dynamic dimensions at other sizes."""

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.export.exporters.traced import Traced
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.export.other_sizes import check_sizes
from compresskit.training.context import Context

FACTS = {"largest_difference": 0.0, "output_scale": 1.0}


@pytest.mark.integration
@pytest.mark.parametrize("runtime", ["onnxruntime"])
def test_an_image_of_another_height_and_width(runtime, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip(runtime)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    loaded = Loaded(net.eval(), {}, torch.randn(1, 3, 16, 16))
    options = ExportOptions(rounds=0, dynamic=["batch,height", "width"], runtime=runtime)
    facts = export(loaded, options, Context(original=loaded), tmp_path / "net.onnx")
    assert facts["second_size"] == [[3, 3, 24, 24]] and facts["second_size_difference"] < 1e-5
    shape = onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["batch", 3, "height", "width"]


@pytest.mark.parametrize(
    "body, match",
    [
        (lambda x: x + 1, "differs from the model by 1 of 1: forward fixes a size"),
        (lambda x: x[:2], r"at another size the runtime returned \[2, 4\]"),
        (lambda x: 1 / 0, "the runtime fails at another size"),
    ],
)
def test_a_file_that_fixed_a_size_is_refused(body, match):
    class Runner(nn.Module):
        def forward(self, x):
            return body(x)

    trace = Traced(None, nn.Identity(), torch.ones(1, 4), torch.ones(3, 4))
    with pytest.raises(InputError, match=match):
        check_sizes(trace, Runner(), FACTS)


def test_without_named_dimensions_there_is_nothing_to_check():
    assert check_sizes(Traced(None, nn.Identity(), torch.ones(1), None), nn.Identity(), FACTS) == {}
