"""Edits: replaying, and refusing what is not on the list."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.artifact.edits import EDITS, leave_fused_paths, replay
from compresskit.core.errors import InputError


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LayerNorm([8, 4]))


def test_every_row_resolves():
    assert all(callable(EDITS.load(op)) for op in EDITS)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_resize_sets_shapes_and_attributes(device):
    with torch.device(device):
        module = net()
    replay(
        module,
        [
            {
                "op": "resize",
                "target": "0",
                "shapes": {"weight": [5, 3, 3, 3], "bias": [5]},
                "attributes": {"out_channels": 5},
            },
            {"op": "resize", "target": "2", "shapes": {}, "attributes": {"normalized_shape": [5, 4]}},
        ],
    )
    assert module[0].weight.shape == (5, 3, 3, 3)
    assert module[0].weight.device.type == device
    assert isinstance(module[0].weight, nn.Parameter)
    assert module[0].out_channels == 5
    assert module[2].normalized_shape == (5, 4)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_shared_tensor_stays_shared(device):
    """Both owners are named in the edits; a third one is not, and follows."""
    with torch.device(device):
        module = nn.ModuleDict({"embed": nn.Embedding(11, 8), "head": nn.Linear(8, 11, bias=False)})
        module["other"] = nn.Linear(8, 11, bias=False)
        module["head"].weight = module["other"].weight = module["embed"].weight
    replay(
        module,
        [
            {"op": "resize", "target": "embed", "shapes": {"weight": [11, 5]}, "attributes": {"embedding_dim": 5}},
            {"op": "resize", "target": "head", "shapes": {"weight": [11, 5]}, "attributes": {"in_features": 5}},
        ],
    )
    assert module["head"].weight is module["embed"].weight is module["other"].weight
    assert module["head"].weight.shape == (11, 5)


def test_later_edits_win():
    module = net()
    replay(module, [{"op": "resize", "target": "0", "shapes": {"bias": [n]}} for n in (6, 4)])
    assert module[0].bias.shape == (4,)


def test_remove_leaves_an_identity():
    module = replay(net(), [{"op": "remove", "target": "1"}])
    assert isinstance(module[1], nn.Identity)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ({"op": "exec", "target": "0"}, "op 'exec' is not one of"),
        ({"op": "resize"}, "malformed"),
        ({"op": "resize", "target": "9"}, "no layer named '9'"),
        ({"op": "resize", "target": "0", "shapes": {"wieght": [1]}}, "no parameter or buffer 'wieght'"),
        ({"op": "resize", "target": "0", "shapes": {"weight": ["x"]}}, "malformed"),
        ({"op": "resize", "target": "0", "attributes": {"forward": 3}}, "forward"),
        ({"op": "resize", "target": "0", "attributes": {"out_channels": "5"}}, "must be an integer"),
        ({"op": "resize", "target": "0", "attributes": {"new": 3}}, "no attribute 'new'"),
        ({"op": "resize", "target": "0", "attributes": {"weight": 3}}, "no attribute 'weight'"),
    ],
)
def test_refusals(edit, says):
    with pytest.raises(InputError, match=says):
        replay(net(), [edit])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("names", [None, ["0.layers.1.linear1"]])
def test_encoders_leave_their_fused_paths_and_compute_the_same(names):
    def build():
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.TransformerEncoderLayer(8, 2, 16)).eval()

    model, same = build(), build()
    edits = leave_fused_paths(model, names)
    assert model[0].use_nested_tensor == 0 and model[0].layers[1].activation_relu_or_gelu == 0
    assert bool(model[0].layers[0].activation_relu_or_gelu) == (names is not None)
    assert bool(model[1].activation_relu_or_gelu) == (names is not None)
    replay(same, edits)
    assert same[0].use_nested_tensor == 0 and leave_fused_paths(model, names) == []
    x, mask = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [3], [4]])
    with torch.no_grad():
        wanted = build()[0](x, src_key_padding_mask=mask)
        torch.testing.assert_close(model[0](x, src_key_padding_mask=mask)[~mask], wanted[~mask])
