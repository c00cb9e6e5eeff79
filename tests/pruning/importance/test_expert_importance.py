"""Importance of experts, against values computed by hand."""

import pytest
import torch
from torch import nn

from compresskit.pruning.importance.expert_importance import RoutedOutputs, contribution, frequency, router_weighted


class Experts(nn.Module):
    """Three experts of width one that double, triple and quadruple."""

    has_gate, is_transposed, has_bias = False, False, True

    def __init__(self):
        super().__init__()
        self.up_proj = nn.Parameter(torch.ones(3, 1, 1))
        self.up_proj_bias = nn.Parameter(torch.zeros(3, 1))
        self.down_proj = nn.Parameter(torch.tensor([2.0, 3, 4]).reshape(3, 1, 1))
        self.down_proj_bias = nn.Parameter(torch.zeros(3, 1))
        self.act_fn = nn.Identity()


def test_frequency_and_norms_are_those_of_the_routed_tokens():
    routed = RoutedOutputs()
    states = torch.tensor([[1.0], [-2.0], [3.0], [0.5]])
    numbers = torch.tensor([[0, 1], [1, 0], [1, 0], [1, 0]])
    weights = torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    routed.look(Experts(), (states[:2], numbers[:2], weights[:2]), None)
    routed.look(Experts(), (states[2:], numbers[2:], weights[2:]), None)
    # expert 0 gives 2, 4, 6, 1; expert 1 gives 3, 6, 9, 1.5
    norms = [0.75 * 2 + 0 + 0.5 * 6 + 1, 0.25 * 3 + 6 + 0.5 * 9 + 0, 0]
    assert contribution(routed).tolist() == pytest.approx([one / 4 for one in norms])
    assert router_weighted(routed).tolist() == pytest.approx([norms[0] / 4, norms[1] / 4, 0])
    assert frequency(routed).tolist() == [1, 1, 0]
