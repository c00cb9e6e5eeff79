"""Constants whose sizes name channels: states of zeros, repeated elements, identities."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.core.types import call
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.structured.surgery import cut

STATES = {
    "zeros": lambda net, x: torch.zeros(x.size(0), net.hidden, dtype=x.dtype),
    "ones": lambda net, x: torch.ones((x.size(0), net.hidden), dtype=x.dtype),
    "full": lambda net, x: torch.full((x.size(0), net.hidden), 0.5, dtype=x.dtype),
    "new_zeros": lambda net, x: x.new_zeros(x.size(0), net.hidden),
    "new_ones": lambda net, x: x.new_ones((x.size(0), net.hidden)),
    "new_full": lambda net, x: x.new_full((x.size(0), net.hidden), 0.25),
    "unpacked shape": lambda net, x: x.new_zeros(*x[:, 0].shape[:-1], net.hidden),
    "size of a layer": lambda net, x: x.new_zeros(x.size(0), net.inner.in_features),
    "size of an activation": lambda net, x: torch.zeros(net.enter(x[:, 0]).shape, dtype=x.dtype),
    "zeros_like": lambda net, x: torch.zeros_like(net.enter(x[:, 0])),
    "expand": lambda net, x: x.new_zeros(1, 1).expand(x.size(0), net.hidden),
    "expand_as": lambda net, x: x.new_ones(1, 1).expand_as(net.enter(x[:, 0])),
    "broadcast_to": lambda net, x: torch.broadcast_to(x.new_ones(1, 1), (x.size(0), net.hidden)),
    "learned": lambda net, x: net.start.expand(x.size(0), net.hidden),
    "learned -1": lambda net, x: net.start.expand(x.size(0), -1),
}


class Cell(nn.Module):
    """A recurrent network whose state is made by `start`."""

    def __init__(self, make, hidden=16):
        super().__init__()
        self.make, self.hidden = make, hidden
        self.enter, self.inner, self.leave = nn.Linear(4, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 3)
        self.start = nn.Parameter(torch.randn(1, hidden))

    def forward(self, x):
        state = self.make(self, x)
        for step in range(x.size(1)):
            state = torch.tanh(self.enter(x[:, step]) + self.inner(state))
        return self.leave(state)


@pytest.mark.parametrize("state", STATES)
def test_a_state_sized_from_the_model_follows_the_cut(state, halved):
    model = Cell(STATES[state])
    groups, _ = halved(model, torch.randn(2, 3, 4))
    assert groups == {"enter": 16}
    assert model.inner.weight.shape == (8, 8)


def test_the_attribute_that_sizes_a_state_is_an_edit():
    model = Cell(STATES["new_zeros"]).eval()
    graph = build_graph(model, torch.randn(2, 3, 4))
    keep = {"enter": torch.arange(16).numpy() < 5}
    edits = cut(model, graph, graph.keep_ids(keep))
    assert {"hidden": 5} in [edit["attributes"] for edit in edits]


@pytest.mark.parametrize("make", [lambda net, x: x.new_zeros(x.size(0), 16), lambda net, x: torch.arange(16.0)[None]])
def test_a_state_of_a_hard_coded_width_holds_what_it_meets(make):
    graph = build_graph(Cell(make).eval(), torch.randn(2, 3, 4))
    assert not graph.groups and "fixed size" in graph.left_out["inner"]


def test_an_element_expanded_to_a_hard_coded_width_holds_what_it_meets():
    model = nn.Sequential(nn.Linear(4, 16), Scaled(), nn.Linear(16, 2)).eval()
    graph = build_graph(model, torch.randn(2, 4))
    assert not graph.groups and "with the number 16" in graph.left_out["0"]


class Scaled(nn.Module):
    def forward(self, x):
        return x * x.new_ones(1, 1).expand(x.size(0), 16)


class Identity(nn.Module):
    """A residual matrix: x + x @ (eye + weight)."""

    def __init__(self, width=12):
        super().__init__()
        self.width = width
        self.enter, self.leave = nn.Linear(4, width), nn.Linear(width, 3)
        self.mix = nn.Parameter(torch.randn(width, width))

    def forward(self, x):
        return self.leave(self.enter(x) @ (torch.eye(self.width, dtype=x.dtype) + self.mix))


def test_an_identity_loses_rows_and_columns_together(halved):
    groups, _ = halved(Identity(), torch.randn(2, 4))
    assert groups == {"mix": 12}


class Recurrent(nn.Module):
    """A loop over one of torch's cells."""

    def __init__(self, kind, hidden=16, given=False):
        super().__init__()
        self.enter, self.cell, self.leave = nn.Linear(4, 8), kind(8, hidden), nn.Linear(hidden, 3)
        self.given = given

    def forward(self, x):
        state = x.new_zeros(x.size(0), self.cell.hidden_size) if self.given else None
        state = (state, state) if self.given and isinstance(self.cell, nn.LSTMCell) else state
        for step in range(x.size(1)):
            state = self.cell(torch.relu(self.enter(x[:, step])), state)
        return self.leave(state[0] if isinstance(self.cell, nn.LSTMCell) else state)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_recurrent_cells_lose_hidden_units(kind, given, halved):
    model = Recurrent(kind, given=given)
    groups, _ = halved(model, torch.randn(2, 3, 4))
    assert sorted(groups.values()) == [8, 16]
    assert (model.cell.input_size, model.cell.hidden_size) == (4, 8)


class Remembers(nn.Module):
    """Keeps its state as an attribute between calls."""

    def __init__(self, hidden=16):
        super().__init__()
        self.hidden, self.state = hidden, None
        self.enter, self.leave = nn.Linear(4, hidden), nn.Linear(hidden, 3)

    def forward(self, x):
        if self.state is None:
            self.state = x.new_zeros(x.size(0), self.hidden)
        self.state = torch.tanh(self.enter(x) + self.state)
        return self.leave(self.state)


def test_a_state_kept_as_an_attribute_is_as_it_was_after_the_run(halved):
    model = Remembers().eval()
    build_graph(model, torch.randn(2, 4))
    assert model.state is None
    assert halved(model, torch.randn(2, 4))[0] == {"enter": 16}
    assert call(model, torch.randn(2, 4)).shape == (2, 3)


class Normed(nn.Module):
    def __init__(self, norm, width=16):
        super().__init__()
        self.norm, self.width = norm, width
        self.enter, self.leave = nn.Conv2d(3, width, 3), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        return self.leave(self.norm(self, self.enter(x)))


@pytest.mark.parametrize(
    "norm",
    [
        lambda net, x: F.normalize(x, dim=1),
        lambda net, x: F.normalize(x, p=1.0, dim=1),
        lambda net, x: x / x.norm(dim=1, keepdim=True),
        lambda net, x: x / x.norm(dim=1, keepdim=True).expand_as(x),
        lambda net, x: x / x.norm(dim=1).unsqueeze(1).expand(-1, net.width, -1, -1),
        lambda net, x: x / x.abs().sum(1, keepdim=True).clamp_min(1e-6),
        lambda net, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
        lambda net, x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
        lambda net, x: F.layer_norm(x.movedim(1, -1), (net.width,)).movedim(-1, 1),
        lambda net, x: F.layer_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1),
        lambda net, x: F.rms_norm(x.movedim(1, -1), (net.width,)).movedim(-1, 1),
        lambda net, x: F.instance_norm(x),
        lambda net, x: F.group_norm(x, 1),
        lambda net, x: F.local_response_norm(x, 5),
        lambda net, x: x * F.cosine_similarity(x, x.flip(2), dim=1).unsqueeze(1),
    ],
)
def test_norms_over_channels_are_taken_over_those_that_stay(norm, halved):
    assert halved(Normed(norm), torch.randn(2, 3, 6, 6))[0] == {"enter": 16}
