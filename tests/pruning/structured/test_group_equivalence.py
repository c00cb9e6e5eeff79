import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.tensors.randomness import random_states
from compresskit.core.types import Loaded
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.group_equivalence import proven
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


class Noisy(nn.Module):
    """Two layers that can go; `where` says what forward draws."""

    def __init__(self, where):
        super().__init__()
        self.where, self.generator = where, torch.Generator().manual_seed(0)
        self.first, self.second, self.head = nn.Linear(8, 32), nn.Linear(32, 16), nn.Linear(16, 4)

    def forward(self, x):
        if self.where == "dropout of the input":
            x = F.dropout(x, 0.5, training=True)
        elif self.where == "noise on the input":
            x = x + torch.randn(x.shape)
        elif self.where == "NumPy":
            x = x + float(np.random.rand())
        elif self.where == "Python":
            x = x * random.random()
        elif self.where == "own generator":
            x = x + torch.randn(x.shape, generator=self.generator)
        x = torch.relu(self.first(x))
        if self.where == "noise on the channels":
            x = x + torch.randn_like(x)
        if self.where == "noise for each example":
            x = x * torch.rand(x.shape[0], 1)
        x = torch.relu(self.second(x))
        if self.where == "dropout of the channels":
            x = F.dropout(x, 0.5, training=True)
        return self.head(x) + (torch.randn(4) if self.where == "noise on the output" else 0)


def pruned(where):
    torch.manual_seed(0)
    module = Noisy(where).eval()
    loaded = Loaded(module, {}, torch.randn(1, 8), name="noisy")
    return prune(loaded, PruneOptions(ratio=0.5), Context(loaded))


@pytest.mark.parametrize(
    "where",
    [
        "dropout of the input", "noise on the input", "noise for each example", "noise on the output", "NumPy",
        "Python", "own generator",
    ],
)  # fmt: skip
def test_a_model_that_draws_noise_of_a_fixed_shape_is_cut_and_proven(where):
    result = pruned(where)
    assert result.facts["groups_pruned"] == 2 and result.facts["largest_difference"] <= 1e-8
    assert result.loaded.module.first.out_features == 16 and result.loaded.module.second.out_features == 8


@pytest.mark.parametrize(
    ("where", "stays", "goes"),
    [("noise on the channels", "first", "second"), ("dropout of the channels", "second", "first")],
)
def test_channels_that_noise_is_drawn_for_stay_and_the_note_says_what_to_do(where, stays, goes):
    result = pruned(where)
    (note,) = [note for note in result.notes if note.startswith("left out")]
    assert note.startswith(
        f"left out {stays}: the output is random: forward draws noise in the shape of these channels"
    )
    assert "draw none in eval mode" in note
    assert getattr(result.loaded.module, goes).out_features < Noisy("").get_submodule(goes).out_features


def test_noise_from_a_generator_that_no_seed_reaches_is_named():
    generator = torch.Generator().manual_seed(0)

    class Unseeded(Noisy):
        def forward(self, x):
            return super().forward(x) + torch.randn(1, 1, generator=generator)

    loaded = Loaded(Unseeded("").eval(), {}, torch.ones(1, 8), name="noisy")
    with pytest.raises(InputError, match="two runs of the uncut model differ by .* draw nothing in eval mode"):
        prune(loaded, PruneOptions(ratio=0.5), Context(loaded))


def test_proving_a_cut_draws_nothing():
    module, example = Noisy("dropout of the input").eval(), torch.randn(1, 8)
    graph = build_graph(module, example)
    before = random_states()
    loaded = Loaded(module, {}, example, name="noisy")
    keep = {group.name: np.arange(len(group)) % 2 == 0 for group in graph.groups}
    assert set(proven(loaded, graph, keep, Context(loaded)).keep) == {"first", "second"}
    assert random_states() == before
