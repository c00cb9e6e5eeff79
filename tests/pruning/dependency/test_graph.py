import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.model.tables import BUILTINS
from compresskit.pruning.dependency.graph import build_graph


def sizes(graph):
    return {group.name: len(group) for group in graph.groups}


class Branches(nn.Module):
    """Two branches joined by `join`, then a head."""

    def __init__(self, join):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.head = nn.LazyConv2d(5, 1)
        self.join = join

    def forward(self, x):
        return self.head(self.join(self.left(x), self.right(x)))


def branches(join):
    model = Branches(join).eval()
    x = torch.randn(1, 3, 4, 4)
    model(x)
    return build_graph(model, x)


def test_addition_ties_channels():
    assert sizes(branches(lambda a, b: a + b)) == {"left": 8}


def test_concatenation_keeps_branches_apart():
    assert sizes(branches(lambda a, b: torch.cat([a, b], 1))) == {"left": 8, "right": 8}


def test_channel_shuffle_follows_each_channel():
    graph = branches(lambda a, b: F.channel_shuffle(torch.cat([a, b], 1), 4))
    head = next(m for g in graph.groups if g.name == "left" for m in g.members if m.name == "head.weight")
    # cat position p = 4 q + r (q of 4 groups) comes to r * 4 + q
    assert head.positions[:, 0].tolist() == [(p % 4) * 4 + p // 4 for p in range(8)]


def test_padding_channels_with_a_hard_coded_number_pins_what_they_meet():
    graph = branches(lambda a, b: F.pad(a[:, :4], (0, 0, 0, 0, 2, 2)) + b)
    assert sizes(graph) == {"left": 4}  # the last four are never read
    assert "number" in graph.left_out["right"]


def test_the_output_layer_stays():
    graph = branches(lambda a, b: a + b)
    assert all(not (m.name == "head.weight" and m.dim == 0) for g in graph.groups for m in g.members)
    assert "head" not in graph.left_out  # that outputs stay needs no explanation


def test_padded_shortcuts_tie_stage_channels_to_the_middle_of_the_next_stage():
    model = BUILTINS.load("cifar_resnet20")().eval()
    graph = build_graph(model, torch.randn(1, 3, 32, 32))
    assert sizes(graph)["conv1"] == 16
    assert sizes(graph)["layer2.0.conv2"] == 16 and sizes(graph)["layer3.0.conv2"] == 32
    stream = {member.name: member for member in graph.find("conv1").members if member.dim == 0}
    assert stream["layer2.0.conv2.weight"].positions[:, 0].tolist() == list(range(8, 24))
    assert stream["layer3.2.conv2.weight"].positions[:, 0].tolist() == list(range(24, 40))


def test_flatten_makes_every_position_follow_its_channel():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 9, 2)).eval()
    graph = build_graph(model, torch.randn(1, 3, 3, 3))
    member = next(m for m in graph.groups[0].members if m.name == "2.weight")
    assert member.consumes and member.positions.tolist() == [list(range(9 * c, 9 * c + 9)) for c in range(4)]


@pytest.mark.parametrize(("groups", "units"), [(2, 8), (8, 8), (16, 16)])
def test_grouped_convolution_loses_whole_groups_or_the_same_channels_of_each(groups, units):
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=groups), nn.Conv2d(16, 4, 1)).eval()
    graph = build_graph(model, torch.randn(1, 3, 8, 8))
    assert max(sizes(graph).values()) == units


def test_unknown_operations_pin_and_are_named():
    class Sorts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(torch.fft.rfft(self.first(x), n=10).real)

    graph = build_graph(Sorts().eval(), torch.randn(1, 4))
    assert graph.groups == []
    assert "is not known" in graph.left_out["first"]


def test_tracing_leaves_the_model_as_it_was():
    model = BUILTINS.load("digits_cnn")().eval()
    x = torch.randn(1, 1, 8, 8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    expected = model(x)
    build_graph(model, x)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x), expected)
    assert type(model[0].out_channels) is int


def test_a_selection_without_elements_ties_nothing():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)

        def forward(self, x):
            y = self.first(x)
            return self.last(y), y[:0].select(1, 0)  # what a detector takes of no boxes at all

    graph = build_graph(Net().eval(), torch.randn(1, 4))
    assert graph.labels.size and not any(len(group) == 0 for group in graph.groups)
