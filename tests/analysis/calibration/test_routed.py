"""Moments of what experts read, by the tokens that are routed to each."""

import pytest
import torch

from compresskit.analysis.calibration.hooks import watch
from compresskit.analysis.calibration.positions import drawn_per_batch
from compresskit.analysis.calibration.routed import RoutedMoments, routed_states
from compresskit.model.libraries.experts import inner_states, is_experts
from tests.tiny_mixtures import mixture

pytestmark = pytest.mark.integration


def test_a_token_counts_once_for_each_of_its_experts():
    states = torch.arange(8.0).reshape(4, 2)
    numbers = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 0]])
    assert routed_states(states, numbers, 0).tolist() == [[0, 1], [4, 5], [6, 7]]
    assert routed_states(states, numbers, 3).shape == (0, 2)


def test_moments_are_those_of_the_routed_tokens():
    model = mixture("Mixtral")
    name, experts = next((name, module) for name, module in model.named_modules() if is_experts(module))
    found = RoutedMoments(drawn_per_batch(4096, torch.Generator()))
    seen = []
    with watch(model, {name: lambda layer, inputs, output: (seen.append(inputs), found.look(layer, inputs, output))[2:]
                       or None}):  # fmt: skip
        model(torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(1)))
    states, numbers, _ = seen[0]
    for expert in range(4):
        own = routed_states(states, numbers, expert).double()
        inner = inner_states(experts, expert, own.float()).double()
        assert found.sums["gate_up_proj"][expert].count == len(own)
        for name, rows in {"gate_up_proj": own, "down_proj": inner}.items():
            got = found.sums[name][expert].second_moment()[0]
            torch.testing.assert_close(got, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-6)
    assert sum(one.count for one in found.sums["down_proj"]) == 2 * 18
