import numpy as np
import pytest
import torch
from torch import nn

from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.structured.equivalence import difference, double_copy, largest_difference


class Detector(nn.Module):
    """Puts out only the rows whose score is large; with `counting`, a wrong cut changes the scores."""

    def __init__(self, threshold, counting=False):
        super().__init__()
        self.threshold, self.counting = threshold, counting
        self.body, self.hidden, self.score = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = torch.relu(self.body(x))
        x = torch.relu(self.hidden(x / x.shape[1] if self.counting else x))
        scores = self.score(x)
        return scores.index_select(0, torch.where(scores[:, 0] > self.threshold)[0])


def gap(module):
    torch.manual_seed(0)
    example = torch.randn(4, 5)
    graph = build_graph(module.eval(), example)
    keep = {group.name: np.arange(len(group)) % 2 == 0 for group in graph.groups}
    assert set(keep) == {"body", "hidden"}
    return difference(double_copy(module), example, graph, graph.keep_ids(keep))


@pytest.mark.parametrize("threshold", [-1e3, 1e3])
def test_a_right_cut_is_exact_whether_or_not_the_outputs_hold_anything(threshold):
    assert gap(Detector(threshold))[0] <= 1e-8


@pytest.mark.parametrize("threshold", [-1e3, 1e3])
def test_a_wrong_cut_is_seen_although_the_outputs_are_empty(threshold):
    assert gap(Detector(threshold, counting=True))[0] > 1e-3


def test_difference_is_relative_to_the_largest_output():
    left, right = [torch.tensor([1.0, -10.0])], [torch.tensor([1.5, -10.0])]
    assert largest_difference(left, right) == pytest.approx(0.05)
    assert largest_difference(left, [torch.tensor([1.0])]) == float("inf")


class Autocast(nn.Module):
    """Casts its tensors in the order bias, weight where they are in float32, and none in float64."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.second(self.first(x).relu())


def test_a_cut_is_proven_in_another_type_in_which_tensors_are_used_in_another_order():
    model, x = Autocast().eval(), torch.randn(2, 4)
    graph = build_graph(model, x)
    keep = graph.keep_ids({"first": np.arange(8) % 2 == 0})
    gap, reason = difference(double_copy(model), x.double(), graph, keep)
    assert gap <= 1e-12 and not reason
