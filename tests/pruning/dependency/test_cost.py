import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compresskit.analysis.measure.macs import count_macs
from compresskit.core.types import Loaded
from compresskit.model.tables import BUILTINS
from compresskit.pruning.dependency import cost
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.pruning.structured.surgery import cut
from compresskit.training.context import Context


def test_predictions_equal_what_the_cut_model_has():
    model = BUILTINS.load("cifar_resnet20")().eval()
    x = torch.randn(1, 3, 32, 32)
    graph = build_graph(model, x)
    macs, parameters = cost.macs(graph), cost.parameters(graph)
    rng = np.random.default_rng(0)
    kept = np.array([int(rng.integers(1, len(g) + 1)) for g in graph.groups])
    keep = {g.name: np.arange(len(g)) < k for g, k in zip(graph.groups, kept, strict=True)}
    cut(model, graph, graph.keep_ids(keep))
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert macs(kept) == counter.get_total_flops() / 2 == cost.exact_macs(graph, graph.keep_ids(keep))
    assert parameters(kept) == sum(p.numel() for p in model.parameters())


class Mixed(nn.Module):
    """Layers of widths that go, and products that no width of them decides."""

    def __init__(self, kind):
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.rnn = getattr(nn, kind)(12, 16, 2, batch_first=True, bidirectional=True)
        self.pair = nn.Bilinear(6, 6, 4)
        self.head = nn.Linear(32, 4)
        self.register_buffer("basis", torch.randn(6, 6))

    def forward(self, x):
        fixed = x @ self.basis
        return self.head(self.rnn(torch.relu(self.embed(x)))[0]) + self.pair(fixed, x)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.integration
def test_the_budget_is_of_the_macs_that_are_measured(kind):
    x = torch.randn(1, 5, 6)
    loaded = Loaded(Mixed(kind).eval(), {}, x)
    graph = build_graph(loaded.module, x)
    whole = count_macs(loaded.module, x).total
    assert cost.exact_macs(graph, np.ones(len(graph.labels), dtype=bool)) == whole
    result = prune(loaded, PruneOptions(target_macs=0.5), Context(loaded))
    left = count_macs(result.loaded.module, x).total
    assert result.facts["macs_before"] == whole
    assert result.facts["macs_after"] == left
    assert 0.4 < left / whole <= 0.5
