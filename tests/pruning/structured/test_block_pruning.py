import pytest
import torch
from torch import nn

from compresskit.artifact import edits, source
from compresskit.artifact.skips import PassThrough
from compresskit.core.errors import InputError
from compresskit.model import builders
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.block_pruning import skippable_blocks
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


def test_blocks_of_a_residual_network_are_those_that_keep_their_shape():
    loaded = source.load_model("builtin:cifar_resnet20")
    blocks = skippable_blocks(loaded.module, loaded.example)
    assert sorted(blocks) == [f"layer{s}.{b}" for s, b in [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]]
    assert not any(edit["as_tuple"] for edit in blocks.values())


def test_the_least_important_block_goes_first():
    loaded = source.load_model("builtin:cifar_resnet20")
    with torch.no_grad():
        loaded.module.layer2[1].bn2.weight.zero_()  # this block adds nothing
        loaded.module.layer2[1].bn2.bias.zero_()
    original = loaded.clone()
    result = prune(loaded, PruneOptions(granularity="block", ratio=0.15), Context(original))
    assert [edit["target"] for edit in loaded.edits] == ["layer2.1"]
    assert result.facts["macs_kept"] < 1
    torch.testing.assert_close(loaded.module(loaded.example), original.module(original.example))
    rebuilt = edits.replay(builders.build(loaded.source), loaded.edits).eval()
    rebuilt.load_state_dict(loaded.module.state_dict(), strict=True)
    assert torch.equal(rebuilt(loaded.example), loaded.module(loaded.example))


def test_blocks_go_until_the_budget_is_met():
    loaded = source.load_model("builtin:cifar_resnet20")
    result = prune(loaded, PruneOptions(granularity="block", target_macs=0.6), Context(loaded.clone()))
    assert result.facts["macs_kept"] <= 0.6


def test_a_model_without_blocks_is_refused():
    loaded = source.load_model("builtin:digits_mlp")
    with pytest.raises(InputError, match="no block passes"):
        prune(loaded, PruneOptions(granularity="block", ratio=0.5), Context(loaded))


def test_pass_through_takes_what_layers_are_called_with():
    x = torch.ones(2)
    assert PassThrough(False)(x, 1, mask=None) is x
    assert PassThrough(True)(hidden_states=x)[0] is x
    assert isinstance(PassThrough(True), nn.Module)
