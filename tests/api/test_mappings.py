"""Batches that are mappings, given whole to a forward of one argument, through the verbs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import compresskit
from compresskit.core.errors import CompresskitError


class Graph(nn.Module):
    """Classes of the nodes of dense graphs: forward(batch) reads `x`, (batch, nodes, 8), and `adj`."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 64), nn.Linear(64, 3)

    def forward(self, batch):
        return {"out": self.second(batch["adj"] @ torch.relu(self.first(batch["x"])))}


def graphs(count, *names):
    generator = torch.Generator().manual_seed(0)
    draw = {
        "x": lambda: torch.randn(5, 8, generator=generator),
        "adj": lambda: torch.rand(5, 5, generator=generator),
        "y": lambda: torch.randint(3, (5,), generator=generator),
    }
    return [{name: draw[name]() for name in names} for _ in range(count)]


def test_a_mapping_is_pruned_quantized_and_exported_as_one_argument(tmp_path):
    loader = DataLoader(graphs(40, "x", "adj", "y"), batch_size=8)
    half = compresskit.prune(Graph().eval(), data=loader, target_macs=0.5, latency_rounds=0)
    assert half.model.first.out_features < 40
    int8 = compresskit.quantize(half, data=loader, scheme="int8-static", latency_rounds=0)
    batch = next(iter(loader))
    wanted, found = half.model(batch)["out"], int8.model(batch)["out"]
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    figures = compresskit.export(int8, format="onnx", output=tmp_path / "net.onnx", rounds=0)
    assert figures["largest_difference"] < 1e-3


def test_a_few_mappings_without_targets_calibrate():
    loader = DataLoader(graphs(4, "x", "adj"), batch_size=2)
    lines = []
    int8 = compresskit.quantize(
        Graph().eval(), data=loader, scheme="int8-static", latency_rounds=0, progress=lines.append
    )
    assert int8.model.first.spec.input == "static"
    assert any("4 examples, too few to hold any out, are train, val and test" in str(line) for line in lines)


def test_a_key_that_is_no_input_is_named_with_what_targets_are_called():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, x):
            return self.layer(x)

    loader = DataLoader([{"x": torch.zeros(8), "klass": torch.tensor(1)} for _ in range(20)], batch_size=4)
    with pytest.raises(CompresskitError, match="klass.*gives x, klass as inputs: targets are called labels, label"):
        compresskit.prune(Named().eval(), data=loader, target_macs=0.5)
