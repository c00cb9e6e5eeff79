"""Scores of groups, brought to one scale."""

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.importance.group_scores import evidence_for, normalized, score_groups
from compresskit.pruning.options import PruneOptions
from compresskit.training.context import Context


@pytest.mark.parametrize(("how", "scale"), [("none", 1), ("mean", 2), ("max", 3), ("sum", 6), ("median", 2)])
def test_scores_are_divided_by_a_figure_of_their_group(how, scale):
    np.testing.assert_allclose(normalized(np.array([1.0, 2, 3]), how), np.array([1, 2, 3]) / scale)
    np.testing.assert_array_equal(normalized(np.zeros(2), how), np.zeros(2))


def test_scores_by_cost_are_what_a_unit_takes_of_it():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    loaded = Loaded(module, {}, torch.zeros(1, 4))
    graph, found = build_graph(module, loaded.example), {}
    for how in ("none", "macs"):
        options = PruneOptions(ratio=0.5, criterion="l1", normalize=how)
        (found[how],) = score_groups(graph, evidence_for(loaded, graph, options, Context(loaded)), options).values()
    np.testing.assert_allclose(found["macs"], found["none"] / (4 + 3), rtol=1e-6)
