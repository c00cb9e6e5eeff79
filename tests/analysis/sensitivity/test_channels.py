"""The Fisher information of outputs against its closed form, and the KL divergence that it predicts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.analysis.sensitivity.channels import output_sensitivities
from compresskit.search.problem.evaluator import divergence


def test_logits_layer_has_the_closed_form():
    """For logits z with probabilities p, the Fisher information of z_c is p_c (1 - p_c)."""
    layer = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(4000, 4)
    found = output_sensitivities(layer, ["0"], [x], seed=0)["0"]
    p = layer(x).softmax(1).detach().double()
    assert torch.allclose(found, (p * (1 - p)).mean(0), rtol=0.05)


@pytest.mark.parametrize(("errors", "positions"), [("independent", (6, 6)), ("alike", (1, 1))])
def test_predicts_the_divergence_of_a_small_error(errors, positions):
    """Errors drawn anew at each position, or one for all positions of a channel."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    x = torch.randn(1500, 1, 8, 8)
    sensitivity = output_sensitivities(net, ["0"], [x], seed=0, errors=errors)["0"]
    wanted = net(x).detach()
    scale = torch.tensor([0.02, 0.05, 0.01, 0.03])
    with torch.no_grad():
        hidden = net[0](x)
        noisy = net[3](net[2](net[1](hidden + torch.randn(len(x), 4, *positions) * scale.view(1, 4, 1, 1))))
    predicted = 0.5 * float((sensitivity * scale.double().square()).sum())
    assert divergence(wanted, noisy) == pytest.approx(predicted, rel=0.2)
