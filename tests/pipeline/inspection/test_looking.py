"""Layers and totals of models of all kinds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.pipeline.inspection.looking import diff_models, inspect_model


class Attention(nn.Module):
    """Products that belong to no layer with weights, and outputs in a dictionary."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.rnn = nn.GRU(8, 8, batch_first=True)

    def forward(self, x, mask=None):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, -1)
        y = nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]
        return {"logits": self.rnn(y)[0], "scores": [y if mask is None else y * mask], "loss": None}


class Nothing(nn.Module):
    def forward(self, x):
        return x.relu()


class Detector(nn.Module):
    """Takes a list of images and returns a list of dictionaries."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        return [{"boxes": self.stem(image[None]).mean((2, 3)), "label": "none"} for image in images]


def test_macs_of_all_rows_sum_to_the_total():
    found = inspect_model(Loaded(Attention().eval(), {}, {"x": torch.randn(1, 5, 8), "mask": torch.ones(1, 5, 8)}))
    macs = {row["layer"]: row["macs"] for row in found["layers"]}
    assert macs == {"(root)": 2 * 25 * 8, "qkv": 5 * 8 * 24, "rnn": 5 * 2 * 24 * 8}
    assert found["macs"] == sum(macs.values())
    assert found["macs_leave_out"] == []
    assert next(row for row in found["layers"] if row["layer"] == "rnn")["output"] == [1, 5, 8]


@pytest.mark.parametrize(
    ("module", "example", "macs"),
    [
        (Nothing(), torch.randn(1, 3), 0),
        (nn.Identity(), torch.zeros(1, 2), 0),
        (Detector(), ([torch.randn(3, 6, 6)],), 16 * 4 * 27),
    ],
)
@pytest.mark.integration
def test_models_without_parameters_and_with_lists(module, example, macs):
    loaded = Loaded(module.eval(), {}, example)
    found = inspect_model(loaded)
    assert found["macs"] == macs
    assert found["parameters"] == sum(parameter.numel() for parameter in module.parameters())
    figures = {row["figure"]: row for row in diff_models(loaded, loaded.clone(), "a", "b", 1)["figures"]}
    assert figures["latency_ms"]["a"] > 0


def test_an_example_that_does_not_fit_is_one_line():
    with pytest.raises(InputError, match="does not take its example input: RuntimeError"):
        inspect_model(Loaded(nn.Linear(3, 2), {}, torch.zeros(1, 4)))
