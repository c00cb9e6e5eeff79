import pytest
import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


@pytest.mark.integration
def test_a_latency_target_is_measured():
    loaded = load_model("builtin:cifar_vgg", model_args={"width": 32})
    result = prune(loaded, PruneOptions(target_latency=0.6), Context(loaded.clone()))
    facts = result.facts
    assert 1 <= facts["latency_cuts_measured"] <= 6 and facts["macs_kept"] < 0.95
    met = facts["latency_kept"] <= 0.6
    assert met or any(note.startswith("latency: asked to keep 60.0%") for note in result.notes)
    assert facts["largest_difference"] <= 1e-8


class Counting(nn.Module):
    """Divides by how many channels there are, which a cut changes and a mask does not."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.second(x / x.shape[1]).relu())


@pytest.mark.integration
def test_a_measured_share_is_not_kept_for_a_cut_that_lost_groups():
    torch.manual_seed(0)
    loaded = Loaded(Counting().eval(), {}, torch.randn(2, 3, 16, 16))
    result = prune(loaded, PruneOptions(target_latency=0.3), Context(loaded.clone()))
    assert result.facts["groups_pruned"] == 1 and result.facts["groups_left_out"] == 1
    assert result.facts["latency_kept"] is None
    assert any(note.startswith("latency: not measured again") for note in result.notes)


def test_a_latency_that_the_model_has_already_is_refused():
    loaded = load_model("builtin:digits_cnn")
    with pytest.raises(InputError, match="target_latency is 5,000 ms, and one forward takes .* already; give less"):
        prune(loaded, PruneOptions(target_latency="5s"), Context(loaded.clone()))
