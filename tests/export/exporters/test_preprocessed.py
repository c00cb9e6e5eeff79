"""Graphs that take images of bytes."""

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded, Preprocessing
from compresskit.export.exporters.preprocessed import FromFloats, Preprocessed, in_bytes
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.training.context import Context

WANTED = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 1.0], "order": "rgb"}


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_bytes_become_what_the_model_takes_and_back(order):
    wrapper = Preprocessed(nn.Identity(), {**WANTED, "order": order})
    image = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    found = wrapper(image)
    first, last = (1.0, 0.2) if order == "rgb" else (0.2, 1.0)
    wanted = [(first - 0.1) / 0.5, (0 - 0.2) / 0.25, (last - 0.3) / 1.0]
    torch.testing.assert_close(found.reshape(-1), torch.tensor(wanted))
    assert torch.equal(wrapper.as_bytes(found), image)
    assert torch.equal(FromFloats(wrapper, wrapper)(found), found)


def test_models_of_anything_else_are_refused():
    with pytest.raises(InputError, match="preprocess 'inside'"):
        Preprocessed(nn.Identity(), {})


def test_dimensions_of_bytes():
    assert in_bytes([{0: "batch", 2: "height", 3: "width"}]) == [{0: "batch", 1: "height", 2: "width"}]


@pytest.mark.integration
@pytest.mark.parametrize("named", [True])
def test_a_file_takes_bytes_of_any_size(named, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, pixel_values):
            return self.conv(pixel_values).mean((2, 3))

    example = torch.randn(1, 3, 8, 8)
    preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.25, 1.0), (8, 8), 3)
    loaded = Loaded(Named().eval(), {}, {"pixel_values": example} if named else example, preprocessing=preprocessing)
    options = ExportOptions(rounds=0, preprocess="inside", dynamic="batch,height,width", with_script=True)
    facts = export(loaded, options, Context(original=loaded), tmp_path / "net.onnx")
    assert facts["largest_difference"] < 1e-5 and facts["second_size_difference"] < 1e-5
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert entry.name == "image" and entry.type == "tensor(uint8)"
    assert entry.shape == ["batch", "height", "width", 3]
    image = np.random.default_rng(0).integers(0, 256, (2, 12, 10, 3), dtype=np.uint8)
    values = torch.from_numpy(image).permute(0, 3, 1, 2) / 255 - torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        wanted = loaded.module(values / torch.tensor([0.5, 0.25, 1.0]).reshape(1, 3, 1, 1))
    np.testing.assert_allclose(session.run(None, {"image": image})[0], wanted.numpy(), atol=1e-5)
    assert "it takes bytes" in (tmp_path / "net.md").read_text()
