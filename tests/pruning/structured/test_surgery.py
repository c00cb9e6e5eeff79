import pytest
import torch

from compresskit.artifact import artifact
from compresskit.artifact.edits import replay
from compresskit.artifact.source import load_model
from compresskit.core.types import call
from compresskit.model.builders import build
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context

TIED = """
from torch import nn

class Tied(nn.Module):
    input_shape = (6,)

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(11, 16), nn.Linear(16, 16), nn.Linear(16, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        y = self.embed(tokens.long().clamp(0, 10))
        return self.out(y + self.mix(y).relu())
"""


@pytest.fixture
def pruned(tmp_path):
    """A model whose embedding and output layer share one weight, half as wide."""
    (tmp_path / "tied.py").write_text(TIED)
    loaded = load_model(f"{tmp_path}/tied.py:Tied")
    prune(loaded, PruneOptions(ratio=0.5, round_to=1), Context(loaded.clone()))
    return loaded


def test_edits_of_both_owners_leave_one_tensor(pruned):
    module = replay(build(pruned.source), pruned.edits)
    assert {edit["target"] for edit in pruned.edits} == {"embed", "mix", "out"}
    assert module.out.weight is module.embed.weight and module.out.weight.shape == (11, 8)


def test_tied_weights_are_tied_after_loading(pruned, tmp_path):
    artifact.save(pruned, tmp_path / "a")
    again = artifact.load(tmp_path / "a", trust_source=True)
    assert again.module.out.weight is again.module.embed.weight
    assert again.module.out.weight.shape == (11, 8)
    torch.testing.assert_close(call(again.module, again.example), call(pruned.module, again.example), rtol=0, atol=0)
