"""What is known of experts of a mixture: their projections, one expert's matrices, its inner states."""

import pytest
import torch
from torch import nn

from compresskit.model.libraries.experts import inner_states, is_experts, matrix_of, projections
from tests.tiny_mixtures import FAMILIES, mixture

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_give_what_their_matrices_say(family):
    model = mixture(family)
    found = [module for module in model.modules() if is_experts(module)]
    assert len(found) == 2
    experts, states = found[0], torch.randn(5, 32)
    into, out_of = projections(experts)
    assert (into, out_of) == ("gate_up_proj", "down_proj")
    numbers = torch.full((5, 1), 2)
    with torch.no_grad():
        inner = inner_states(experts, 2, states)
        wanted = experts(states, numbers, torch.ones(5, 1))
        got = inner @ matrix_of(experts, out_of, 2).T + (experts.down_proj_bias[2] if family == "GptOss" else 0)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_other_modules_are_no_experts():
    assert not any(is_experts(module) for module in nn.TransformerEncoderLayer(8, 2).modules())
