import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.pruning.allocation.allocation import check_budget, shares_by_depth
from compresskit.pruning.allocation.units import Limits
from compresskit.pruning.check import check
from compresskit.pruning.dependency.graph import Group, build_graph
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


def groups(count):
    return [Group(str(number), np.arange(4), ()) for number in range(count)]


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (3, [0.2, 0.6], [0.2, 0.4, 0.6]),
        (5, [0.0, 0.5, 0.1], [0.0, 0.25, 0.5, 0.3, 0.1]),
        (1, [0.2, 0.6], [0.2]),
        (2, [0.3], [0.3, 0.3]),
    ],
)
def test_shares_are_spread_over_the_depth(count, shares, expected):
    assert list(shares_by_depth(groups(count), shares).values()) == pytest.approx(expected)


@pytest.mark.integration
def test_later_layers_lose_more_and_overrides_win():
    loaded = load_model("builtin:cifar_plain20")
    options = PruneOptions(depth_ratios=[0.0, 0.75], ratios={"layer1.0.conv1": 0.5}, round_to=1)
    result = prune(loaded, options, Context(loaded.clone()))
    kept = {row["group"]: row["kept"] / row["units"] for row in result.tables["pruned groups"]}
    assert kept.pop("layer1.0.conv1") == 0.5
    assert list(kept.values()) == sorted(kept.values(), reverse=True) and len(set(kept.values())) > 3
    assert min(kept.values()) == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth_ratios": [0.2], "target_macs": 0.5}, "depth_ratios and target_macs exclude each other"),
        ({"depth_ratios": [0.2, 1.0]}, "depth_ratios: 1.0 must be at least 0 and below 1"),
        ({"target_latency": 0.5, "granularity": "block"}, "would be ignored with granularity 'block'"),
        ({"target_latency": 1.5}, "less than 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValidationError, match=message):
        PruneOptions(**options)


def test_a_budget_in_bytes_that_is_missed_is_compared_with_bytes():
    loaded = load_model("builtin:digits_cnn")
    result = prune(loaded, PruneOptions(target_bytes=2000, min_keep_ratio=0.5), Context(loaded.clone()))
    assert any(note.startswith("bytes: asked to keep") and "allow no less" in note for note in result.notes)
    (missed,) = result.missed
    assert missed.startswith("bytes: target_bytes asked for 0.2%") and "allow no less" in missed
    loaded = load_model("builtin:digits_cnn")
    assert prune(loaded, PruneOptions(target_bytes=0.5), Context(loaded.clone())).missed == []


def test_a_budget_out_of_reach_of_equal_widths_names_free_ones():
    graph = build_graph(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), torch.zeros(1, 4))
    limits = {group.name: Limits(1, 16) for group in graph.groups}
    for classes, says in ((None, "lower them$"), ([[0]], "or let layers of one kind .*, with --widths free$")):
        with pytest.raises(InputError, match=says):
            check_budget(graph, limits, PruneOptions(target_macs=0.1), classes)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_budget_of_a_model_that_does_nothing_is_refused():
    net = nn.Sequential(nn.Linear(4, 0), nn.ReLU(), nn.Linear(0, 3))
    loaded = Loaded(net.eval(), {}, torch.zeros(1, 4))
    with pytest.raises(InputError, match="target_macs says nothing here: the model has no MACs to lose"):
        check(loaded, PruneOptions(target_macs=0.5), Context(loaded))


def test_a_budget_out_of_reach_is_refused_before_work_with_the_least_that_can_be_reached():
    loaded = load_model("builtin:digits_cnn")
    with pytest.raises(InputError, match=r"target_macs 0.001 cannot be met: .*; give at least 0\.\d+") as refused:
        check(loaded.clone(), PruneOptions(target_macs=0.001), Context(loaded))
    least = float(str(refused.value).rpartition("at least ")[2].partition(",")[0])
    check(loaded.clone(), PruneOptions(target_macs=least), Context(loaded))
    result = prune(loaded.clone(), PruneOptions(target_macs=least), Context(loaded))
    assert result.facts["macs_kept"] <= least and result.missed == []
    with pytest.raises(InputError, match="give at least"):
        check(loaded.clone(), PruneOptions(target_macs=least - 0.002), Context(loaded))
    check(loaded.clone(), PruneOptions(target_macs=0.001, schedule="linear", steps=5), Context(loaded))


class Forked(nn.Module):
    """The first half of the stem's channels is read by one layer, the second half by another: two groups."""

    def __init__(self):
        super().__init__()
        self.half = 8
        self.stem, self.left, self.right = nn.Linear(4, 16), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.left(x[..., : self.half]) + self.right(x[..., self.half :].relu())


def pruned_forks(**options):
    loaded = Loaded(Forked().eval(), {}, torch.randn(2, 4))
    result = prune(loaded, PruneOptions(round_to=1, **options), Context(loaded.clone()))
    return {row["group"]: row["kept"] for row in result.tables["pruned groups"]}


def test_patterns_name_groups_too():
    assert pruned_forks(ratios={"stem": 0.25, "stem#2": 0.5}) == {"stem": 6, "stem#2": 4}
    assert pruned_forks(ratios={"stem#2": 0.5}) == {"stem#2": 4}
    assert pruned_forks(ratio=0.5, protect=["*#2"]) == {"stem": 4}


def test_a_pattern_that_names_neither_a_layer_nor_a_group():
    with pytest.raises(InputError, match="no layer or group matches 'stem#3'; did you mean 'stem#2'"):
        pruned_forks(ratios={"stem#3": 0.5})
