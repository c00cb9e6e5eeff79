"""Features taken out of running models."""

from __future__ import annotations

import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.distillation.matching.taps import attention_watched, tapped


def test_taps_take_outputs_the_classifiers_input_and_what_came_before_the_relu():
    loaded = load_model("builtin:digits_cnn_small")
    module, x = loaded.module, torch.rand(2, 1, 8, 8)
    with torch.no_grad(), tapped(module, ["5"], "12", "keep") as taken:
        module(x)
        assert torch.equal(
            taken.outputs["5"], module[:6](x) if not isinstance(module, nn.Sequential) else _run(module, x, 6)
        )
        before = _run(module, x, 5)
        assert bool((before < 0).any())
        assert torch.equal(taken.before_relu["5"], before)
        assert torch.equal(taken.embedding, _run(module, x, 12))
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())


def _run(module, x, layers: int):
    for layer in list(module)[:layers]:
        x = layer(x)
    return x


def test_attention_of_torchs_own_layer_is_seen_in_eval_mode():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with torch.no_grad(), attention_watched() as calls:
        layer(torch.rand(3, 5, 8))
    assert [tuple(tensor.shape) for tensor in calls[0]] == [(3, 2, 5, 4)] * 3
    with attention_watched() as later:
        pass
    assert later == []
    assert nn.functional.scaled_dot_product_attention.__name__ == "scaled_dot_product_attention"
