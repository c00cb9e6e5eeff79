"""The loss of the whole model when one layer is replaced: measured at three candidates, on a curve between them."""

import pytest
import torch
from torch import nn

from compresskit.analysis.sensitivity.divergence import OutputReference, divergence
from compresskit.core.types import Loaded
from compresskit.decomposition.ranks.candidates import Candidate, Layer
from compresskit.decomposition.ranks.sensitivity import measure_losses
from compresskit.decomposition.surgery.find_layers import survey


def test_losses_are_measured_near_three_errors_and_never_fall():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(64, 8)
    site = next(site for site in survey(Loaded(net, {}, x))[0] if site.name == "2")
    errors = [1.0, 0.8, 0.6, 0.4, 0.25, 0.1]
    layer = Layer(site, [Candidate("svd", (n + 1,), error, n, n) for n, error in enumerate(errors)])
    direction = torch.randn(8, 16) / 8
    fitted = []

    def stand_in(one: Candidate) -> nn.Module:
        fitted.append(one.error)
        made = nn.Linear(16, 8)
        with torch.no_grad():
            made.weight.copy_(net[2].weight + one.error * direction)
            made.bias.copy_(net[2].bias)
        return made

    wanted, original = net(x).detach(), net[2]
    measure_losses(OutputReference(net, [x]), layer, stand_in)
    assert sorted(fitted) == [0.25, 0.6, 1.0] and net[2] is original
    losses = [one.loss for one in layer.candidates]
    assert losses == sorted(losses, reverse=True)
    moved = nn.Sequential(*net[:2], stand_in(layer.candidates[2]), *net[3:])
    assert losses[2] == pytest.approx(divergence(wanted, moved(x).detach()), rel=1e-4)
    assert losses[5] == pytest.approx(losses[4] * (0.1 / 0.25) ** 2)  # below the first point, with the error's square
