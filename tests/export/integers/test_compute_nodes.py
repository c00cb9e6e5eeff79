"""MACs of an ONNX file's nodes are those that the engine counts in PyTorch."""

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.macs import count_macs
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.integers.compute_nodes import compute_nodes


class Many(nn.Module):
    """One of each kind that multiplies and sums."""

    def __init__(self):
        super().__init__()
        self.table, self.recurrent = nn.Embedding(11, 6), nn.GRU(6, 5, batch_first=True)
        self.conv, self.up = nn.Conv1d(5, 4, 3, groups=1), nn.ConvTranspose1d(4, 3, 2)
        self.head = nn.Linear(3, 2)

    def forward(self, ids):
        values = self.recurrent(self.table(ids))[0]
        values = values + values @ values.transpose(1, 2) @ values
        return self.head(self.up(self.conv(values.transpose(1, 2))).transpose(1, 2))


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:The tensor attributes")  # of the GRU, by torch.export
def test_macs_and_layers_of_a_file(tmp_path):
    pytest.importorskip("onnxscript")
    model, ids = Many().eval(), torch.randint(0, 11, (1, 9))
    export_onnx(export_program(model, ids), tmp_path / "m.onnx")
    nodes = compute_nodes(tmp_path / "m.onnx", {"ids": ids})
    assert sum(node.macs for node in nodes) == count_macs(model, ids).total
    assert [node.layer for node in nodes if node.operation == "Conv"] == ["conv"]
    assert [node.table for node in nodes if node.layer == "table"] == ["float"]
    assert all("input" in node.floats or node.table for node in nodes)


class Masked(nn.Module):
    """Chooses positions by a mask: how many, only a run shows."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, values):
        return self.head(values.cumsum(1)[:, -(values.shape[1] // 2) :])


@pytest.mark.integration
def test_macs_behind_sizes_that_a_run_alone_shows(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    values = torch.randn(1, 8, 6)
    axes = [{0: "batch", 1: "length"}]
    export_onnx(export_program(Masked().eval(), torch.randn(2, 8, 6), axes), tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    (node,) = compute_nodes(tmp_path / "m.onnx", {graph.input[0].name: values})
    assert node.macs == 4 * 6 * 4
