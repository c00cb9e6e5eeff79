"""The record of one run: who called whom, and what passed between them."""

from __future__ import annotations

import torch
from torch import nn

from compresskit.analysis.calibration.block_walk.call_tree import call_counts, record_calls


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.act, self.position = nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Parameter(torch.ones(2, 3))

    def forward(self, x, scale):
        x = x + self.position
        y = self.act(self.linear(x))
        return self.linear(y) * scale


class Residual(Net):
    def forward(self, x, scale):
        return super().forward(x, scale) + x


def test_calls_are_recorded_with_what_passed_between_them():
    net = Net().train()
    whole = record_calls(net, (torch.randn(2, 3), torch.ones(1)))
    first, act, second = whole.calls
    assert [one.name for one in whole.walk()] == ["", "linear", "act", "linear"]
    assert call_counts(whole) == {"": 1, "linear": 2, "act": 1}
    assert first.leaves == act.enters and act.leaves == second.enters and act.leaves != act.enters
    assert (act.mutates, first.mutates, whole.mutates) == (True, False, False)
    assert whole.shapes == (((2, 3), (1,)), ((2, 3),)) and whole.enters is None
    assert whole.reads == {id(net.position)} and first.reads == {id(net.linear.weight), id(net.linear.bias)}
    assert net.training and not net._forward_hooks


def test_an_addition_of_two_activations_is_told_from_that_of_a_parameter():
    inputs = torch.randn(2, 3), torch.ones(1)
    assert not record_calls(Net(), inputs).adds and record_calls(Residual(), inputs).adds


class Mapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU())

    def forward(self, x):
        return torch.vmap(self.body)(self.head(x))


def test_calls_under_vmap_belong_to_what_maps_them():
    """A run cannot be halted within them."""
    model = nn.Sequential(nn.Linear(3, 3), Mapped())
    whole = record_calls(model, torch.randn(2, 3))
    assert [one.name for one in whole.walk()] == ["", "0", "1", "1.head"]
    assert whole.shapes == (((2, 3),), ((2, 4),))
