"""The Fisher information of outputs against its closed form, and the KL divergence that it predicts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.analysis.sensitivity import channels
from compresskit.analysis.sensitivity.channels import drawn_class, output_curvatures, output_sensitivities, unlabelled
from compresskit.analysis.sensitivity.divergence import divergence


def test_logits_layer_has_the_closed_form():
    """For logits z with probabilities p, the Fisher information of z_c is p_c (1 - p_c)."""
    layer = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(4000, 4)
    found = output_sensitivities(layer, ["0"], unlabelled([x]), score=drawn_class(0))["0"]
    p = layer(x).softmax(1).detach().double()
    assert torch.allclose(found, (p * (1 - p)).mean(0), rtol=0.05)


@pytest.mark.parametrize(("errors", "positions"), [("independent", (6, 6)), ("alike", (1, 1))])
def test_predicts_the_divergence_of_a_small_error(errors, positions):
    """Errors drawn anew at each position, or one for all positions of a channel."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    x = torch.randn(1500, 1, 8, 8)
    sensitivity = output_sensitivities(net, ["0"], unlabelled([x]), score=drawn_class(0), errors=errors)["0"]
    wanted = net(x).detach()
    scale = torch.tensor([0.02, 0.05, 0.01, 0.03])
    with torch.no_grad():
        hidden = net[0](x)
        noisy = net[3](net[2](net[1](hidden + torch.randn(len(x), 4, *positions) * scale.view(1, 4, 1, 1))))
    predicted = 0.5 * float((sensitivity * scale.double().square()).sum())
    assert divergence(wanted, noisy) == pytest.approx(predicted, rel=0.2)


def test_with_labels_it_is_the_mean_square_of_each_examples_gradient():
    """Of the mean squared error of a linear layer, by hand; a layer that runs twice counts both runs."""
    layer = nn.Linear(2, 2, bias=False)
    x, y = torch.randn(5, 2), torch.randn(5, 2)

    def squared(module, inputs, targets):
        return (module(inputs) - targets).square().sum()

    once = nn.Sequential(layer)
    found = output_sensitivities(once, ["0"], [(x[:2], y[:2]), (x[2:], y[2:])], score=squared)["0"]
    assert torch.allclose(found, (2 * (layer(x) - y)).square().mean(0).detach().double())

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x) + self.layer(-x + 1)

    twice = Twice()
    residual = 2 * (twice(x) - y)
    both = output_sensitivities(twice, ["layer"], [(x, y)], score=squared)["layer"]
    assert torch.allclose(both, 2 * residual.square().mean(0).detach().double())


def test_curvatures_are_the_mean_outer_product_of_gradients_at_single_positions():
    """Beside a loop over examples and positions, for a convolution and for a linear layer of tokens."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Flatten(1, 1), nn.Linear(4, 2)).double().eval()
    x = torch.randn(5, 2, 5, dtype=torch.float64)  # (5, 3, 4) behind the convolution, (5, 3, 2) behind the linear layer

    def score(module, inputs, _targets):
        return module(inputs).square().sum()

    found = output_curvatures(net, ["0", "3"], unlabelled([x[:3], x[3:]]), score=score)
    first, last = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    for example in x:
        hidden = net[0](example[None]).detach().requires_grad_()
        output = net[3](net[1](hidden))
        (own,) = torch.autograd.grad(output.square().sum(), hidden)
        for position in range(4):
            first += torch.outer(own[0, :, position], own[0, :, position]) / 5
        for token in 2 * output.detach()[0]:
            last += torch.outer(token, token) / 5
    torch.testing.assert_close(found["0"], first)
    torch.testing.assert_close(found["3"], last)


def test_batches_go_through_in_parts_where_a_backward_pass_would_hold_too_much(monkeypatch):
    """Sums over examples are the same however batches are divided."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    x, y = torch.randn(7, 1, 8, 8), torch.randn(7, 5)
    sizes = []

    def squared(module, inputs, targets):
        sizes.append(len(inputs))
        return (module(inputs) - targets).square().sum()

    whole = output_sensitivities(net, ["0", "3"], [(x, y)], score=squared)
    # an example keeps its 8 x 8 inputs and 4 x 6 x 6 numbers behind the ReLU, which the last layer reads
    monkeypatch.setattr(channels, "_MOST_BYTES", 3 * 4 * (64 + 144))
    parts = output_sensitivities(net, ["0", "3"], [(x, y)], score=squared)
    assert sizes == [7, 3, 3, 1]
    assert all(torch.allclose(parts[name], whole[name], rtol=1e-5) for name in ("0", "3"))
