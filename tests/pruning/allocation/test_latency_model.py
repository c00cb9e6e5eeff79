import numpy as np
import pytest
import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.pruning.allocation.latency_model import LatencyTable, _narrowed, interpolated
from compresskit.pruning.dependency.graph import build_graph


def test_interpolation_between_and_beyond_measured_widths():
    grid = np.arange(16.0).reshape(1, 4, 4)  # out shares down, in shares across
    at = [(0.25, 0.25, 0), (1, 1, 15), (0.5, 0.75, 6), (0.375, 0.25, 2), (0.25, 0.3125, 0.25), (0.1, 0.1, 0)]
    for out_share, in_share, expected in at:
        assert interpolated(grid, np.array([out_share]), np.array([in_share]))[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [
        (nn.Linear(8, 16), ((8, 4), 2)),
        (nn.Conv2d(8, 16, 3, padding=1), ((8, 4, 3, 3), 4)),
        (nn.Conv2d(8, 8, 3, groups=8), ((4, 1, 3, 3), 4)),
        (nn.Conv2d(8, 16, 1, groups=4), ((8, 2, 1, 1), 4)),
    ],
)
def test_half_a_layer_has_half_the_widths(layer, shapes):
    half = _narrowed(layer, 0.5, 0.5)
    assert tuple(half.weight.shape) == shapes[0]
    x = torch.randn(1, 4) if isinstance(layer, nn.Linear) else torch.randn(1, half.in_channels, 5, 5)
    assert half(x).shape[1] == half.weight.shape[0]


@pytest.mark.integration
def test_the_table_gives_the_whole_time_for_the_whole_model_and_less_for_less():
    loaded = load_model("builtin:cifar_vgg", model_args={"width": 32})
    graph = build_graph(loaded.module, loaded.example)
    table = LatencyTable(loaded, graph)
    whole = np.array([len(group) for group in graph.groups])
    assert table(whole) == pytest.approx(table.whole_ms)
    predictions = [table(np.maximum(whole * share // 4, 1)) for share in (4, 3, 2, 1)]
    assert predictions == sorted(predictions, reverse=True)
    small = np.maximum(whole // 4, 1)
    table.anchor(small, 0.9 * table.whole_ms)
    assert table(small) <= table.whole_ms * (1 + 1e-6) and table(whole) == pytest.approx(table.whole_ms)
