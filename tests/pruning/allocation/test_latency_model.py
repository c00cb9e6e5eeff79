import numpy as np
import pytest
import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.pruning.allocation.latency_model import LatencyTable, _narrowed, best_share, interpolated, next_aim
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


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


def test_the_next_aim_lies_between_what_was_too_slow_and_too_fast():
    assert next_aim([(0.8, 0.5)], 0.5) < 0.5  # too slow: aim lower
    assert next_aim([(0.99, 0.5)], 0.5) >= 0.25  # but at most half
    assert 0.3 < next_aim([(0.8, 0.5), (0.4, 0.3)], 0.5) < 0.5
    assert 0.5 < next_aim([(0.3, 0.5)], 0.5) < 1  # too fast: towards the whole model


def test_the_slowest_cut_that_meets_the_target_is_taken_else_the_fastest():
    tried = [(0.6, 0.5, "a"), (0.45, 0.4, "b"), (0.3, 0.2, "c")]
    assert best_share(tried, 0.5)[2] == "b"
    assert best_share(tried[:1], 0.5)[2] == "a"


@pytest.mark.integration
def test_a_latency_target_is_measured():
    loaded = load_model("builtin:cifar_vgg", model_args={"width": 32})
    result = prune(loaded, PruneOptions(target_latency=0.6), Context(loaded.clone()))
    facts = result.facts
    assert 1 <= facts["latency_cuts_measured"] <= 6 and facts["macs_kept"] < 0.95
    met = facts["latency_kept"] <= 0.6
    assert met or any(note.startswith("latency: asked to keep 60.0%") for note in result.notes)
    assert facts["largest_difference"] <= 1e-8


class Counting(nn.Module):
    """Divides by how many channels there are, which a cut changes and a mask does not."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.second(x / x.shape[1]).relu())


@pytest.mark.integration
def test_a_measured_share_is_not_kept_for_a_cut_that_lost_groups():
    torch.manual_seed(0)
    loaded = Loaded(Counting().eval(), {}, torch.randn(2, 3, 16, 16))
    result = prune(loaded, PruneOptions(target_latency=0.7), Context(loaded.clone()))
    assert result.facts["groups_pruned"] == 1 and result.facts["groups_left_out"] == 1
    assert result.facts["latency_kept"] is None
    assert any(note.startswith("latency: not measured again") for note in result.notes)
