"""The check that tests of graph discovery share: cut half of everything, and prove the cut."""

import numpy as np
import pytest

from compresskit.core.types import call
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.structured.equivalence import difference, double_copy
from compresskit.pruning.structured.surgery import cut


@pytest.fixture
def halved():
    """The function that cuts half of every group and compares with the masked model."""
    return _halved


def _halved(module, example, attention="heads", seed=0):
    """Cut half of every group at random; returns (sizes of groups, share of parameters left, largest difference)."""
    module = module.eval()
    graph = build_graph(module, example, attention)
    rng = np.random.default_rng(seed)
    keep = {}
    for group in graph.groups:
        keep[group.name] = np.zeros(len(group), dtype=bool)
        keep[group.name][rng.permutation(len(group))[: max(1, len(group) // 2)]] = True
    ids = graph.keep_ids(keep)
    gap, reason = difference(double_copy(module), example, graph, ids)
    assert gap <= 1e-8, reason
    before = sum(p.numel() for p in module.parameters())
    cut(module, graph, ids)
    call(module, example)
    return {g.name: len(g) for g in graph.groups}, sum(p.numel() for p in module.parameters()) / before
