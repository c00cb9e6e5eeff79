"""Models traced as options ask for it."""

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.export.exporters.traced import traced
from compresskit.export.options import ExportOptions
from tests.analysis.conftest import Detector

pytestmark = pytest.mark.integration


def shapes(program):
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [list(nodes[name].meta["val"].shape) for name in program.graph_signature.user_inputs]


def test_what_is_not_named_is_fixed():
    loaded = Loaded(nn.Conv2d(3, 2, 3).eval(), {}, torch.randn(1, 3, 8, 8))
    found = traced(loaded, ExportOptions(dynamic="none", batch_size=4))
    assert shapes(found.program) == [[4, 3, 8, 8]] and found.second is None
    found = traced(loaded, ExportOptions(dynamic="height,width"))
    ((batch, channels, height, width),) = shapes(found.program)
    assert (batch, channels) == (1, 3) and isinstance(height, torch.SymInt) and isinstance(width, torch.SymInt)
    assert found.second.shape == (1, 3, 12, 12)


def test_a_size_that_forward_computes_with_is_refused_by_name():
    class Fixed(nn.Module):
        def forward(self, image):
            return image * 2 if image.shape[2] == 8 else image * 3

    loaded = Loaded(Fixed().eval(), {}, torch.randn(1, 3, 8, 8))
    with pytest.raises(InputError, match=r"dynamic 'height': forward fixes it at 8 \(dimension 2 of image\)"):
        traced(loaded, ExportOptions(dynamic=["batch", "height"]))


def test_only_language_models_have_past_tokens():
    with pytest.raises(InputError, match="with_past: only causal language models"):
        traced(Loaded(nn.Linear(3, 2).eval(), {}, torch.randn(1, 3)), ExportOptions(with_past=True))


def test_a_graph_of_a_detector_holds_one_number_of_images():
    class OfImages(nn.Module):
        def __init__(self):
            super().__init__()
            self.detector = Detector()

        def forward(self, images):
            return self.detector(torch.stack(images))

    loaded = Loaded(OfImages().eval(), {}, ([torch.randn(3, 9, 9)],))
    found = traced(loaded, ExportOptions(batch_size=2))
    assert shapes(found.program) == [[3, 9, 9], [3, 9, 9]] and len(found.program.module()(found.example[0])) == 2
    with pytest.raises(InputError, match="dynamic: the model returns an entry an image"):
        traced(loaded, ExportOptions(dynamic="batch"))
