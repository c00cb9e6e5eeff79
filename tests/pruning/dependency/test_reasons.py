import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.dependency.reasons import left_out_notes
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.diagnostics import explain
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


class Chain(nn.Module):
    """The channels of `first` reach a view with fixed numbers through an addition and another layer's."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.free = nn.Linear(8, 16)
        self.mix = nn.Parameter(torch.randn(16, 32))

    def forward(self, x):
        y = self.first(x)
        y = y + self.second(y).relu() + self.free(x).relu() @ self.mix
        return self.last(y.view(-1, 4, 8).sort(1).values.flatten(1))


def test_a_note_names_the_operations_that_lead_to_what_keeps_the_channels():
    graph = build_graph(Chain().eval(), torch.randn(2, 8))
    assert [group.name for group in graph.groups] == ["free"]
    (note,) = [note for note in left_out_notes(graph) if "first" in note]
    assert note.startswith("left out first, second: ")
    assert " -> view with the number 4 in the model (test_reasons.py:" in note
    assert "add in the model (test_reasons.py:" in note


def test_explain_gives_the_chain_of_one_layer_and_of_a_parameter():
    graph = build_graph(Chain().eval(), torch.randn(2, 8))
    note = explain(graph, "first").notes[0]
    assert note.startswith("first.weight keeps its outputs: ") and "view with the number 4" in note
    note = explain(graph, "last").notes[0]
    assert "it reaches the model's output" in note


def test_a_model_of_one_layer_says_that_its_channels_are_the_outputs():
    loaded = Loaded(nn.Sequential(nn.Linear(4, 8)).eval(), {}, torch.randn(1, 4))
    with pytest.raises(InputError, match="it reaches the model's output"):
        prune(loaded, PruneOptions(ratio=0.5), Context(loaded))
