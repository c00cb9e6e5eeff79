import pytest
import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.importance.calibration_statistics import Evidence
from compresskit.pruning.importance.importance import unit_sums
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.pruning.tables import CRITERIA
from compresskit.training.context import Context

NEED_DATA = {
    "taylor", "activation-taylor", "fisher", "activation", "apoz", "variance", "wanda", "reconstruction",
    "reconstruction-loss",
}  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """Two linear layers with weights small enough to do by hand."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4], [0, 1], [-1, 0]]))
        model[1].weight.copy_(torch.tensor([[1.0, 2, 0], [0, 2, 1]]))
    loaded = Loaded(model, {}, torch.ones(1, 2))
    graph = build_graph(model, loaded.example)
    return graph.groups[0], lambda reduction: Evidence(loaded, graph, Context(loaded), reduction=reduction)


@pytest.mark.parametrize(
    ("criterion", "reduction", "expected"),
    [
        ("l1", "sum", [8, 5, 2]), ("l1", "first", [7, 1, 1]), ("l1", "max", [7, 4, 1]), ("l1", "mean", [4, 2.5, 1]),
        ("l2", "sum", [26**0.5, 9**0.5, 2**0.5]), ("lamp", "sum", [26 / 26, 9 / 35, 2 / 37]),
        # distances between rows (3,4), (0,1), (-1,0)
        ("fpgm", "first", [18**0.5 + 32**0.5, 18**0.5 + 2**0.5, 32**0.5 + 2**0.5]),
    ],
)  # fmt: skip
def test_weight_criteria_by_hand(small, criterion, reduction, expected):
    group, evidence = small
    scores = CRITERIA.load(criterion)(group, evidence(reduction))
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))


def test_bn_scale_reads_the_norm():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -2, 1]))
    loaded = Loaded(model, {}, torch.ones(1, 1, 4, 4))
    graph = build_graph(model, loaded.example)
    scores = CRITERIA.load("bn-scale")(graph.groups[0], Evidence(loaded, graph, Context(loaded)))
    assert scores.tolist() == [0.5, 2, 1]


def test_unit_sums_add_all_places_of_a_unit():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 1)).eval()
    graph = build_graph(model, torch.ones(1, 1, 2, 2))
    member = next(m for m in graph.groups[0].members if m.name == "2.weight")
    assert unit_sums(member, torch.arange(8.0).view(1, 8)).tolist() == [6, 22]


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_every_criterion_prunes(criterion):
    loaded = load_model("builtin:digits_cnn", model_args={"width": 16})
    data = open_data("digits", loaded.preprocessing) if criterion in NEED_DATA else None
    result = prune(
        loaded, PruneOptions(target_macs=0.5, criterion=criterion, samples=128), Context(loaded.clone(), data=data)
    )
    assert 0.4 < result.facts["macs_kept"] <= 0.5


@pytest.mark.parametrize(
    "criterion", ["taylor", "activation-taylor", "fisher", "activation", "variance", "wanda", "reconstruction"]
)
def test_a_dead_channel_goes_first(criterion):
    loaded = load_model("builtin:digits_cnn", model_args={"width": 8})
    with torch.no_grad():
        loaded.module[1].weight[5] = 0
        loaded.module[1].bias[5] = 0
    data = open_data("digits", loaded.preprocessing)
    graph = build_graph(loaded.module, loaded.example)
    evidence = Evidence(loaded, graph, Context(loaded, data=data), samples=128, reduction="max")
    if criterion in ("taylor", "fisher"):
        evidence = Evidence(loaded, graph, Context(loaded, data=data), samples=128, reduction="sum")
    scores = CRITERIA.load(criterion)(graph.find("0"), evidence)
    assert int(scores.argmin()) == 5
