"""MACs of transformers models against a brute-force count: hooks on their layers, and attention from its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.macs import count_macs
from compresskit.core.types import call

TOKENS = torch.arange(12).reshape(1, 12)
SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def layers_macs(module: nn.Module, inputs) -> int:
    """Every linear layer and convolution by its weight and what it returns."""
    total = 0

    def add(layer: nn.Module, _inputs, output) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features
        else:
            total += output.numel() * layer.weight[0].numel()

    hooks = [m.register_forward_hook(add) for m in module.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    with torch.no_grad():
        call(module, inputs)
    for hook in hooks:
        hook.remove()
    return total


def build(kind: str, **fields) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**fields)
    heads = {"Bert": "ForSequenceClassification", "T5": "ForConditionalGeneration", "Swin": "ForImageClassification",
             "Whisper": "ForConditionalGeneration"}  # fmt: skip
    return getattr(transformers, kind + heads.get(kind, "ForCausalLM"))(config).eval()


def agrees(module: nn.Module, inputs, beside_layers: int) -> None:
    found = count_macs(module, inputs)
    # some releases multiply rotary angles as matrices
    angles = found.by_module.get("model.rotary_emb", 0)
    assert found.total - angles == layers_macs(module, inputs) + beside_layers


@pytest.mark.integration
def test_bert():
    # 2 layers, 4 heads, 12 x 12 scores, 8 wide, keys and values
    agrees(build("Bert", intermediate_size=64, **SMALL), {"input_ids": TOKENS}, 2 * 4 * 144 * 16)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_llama_with_shared_heads(attention):
    model = build("Llama", intermediate_size=64, num_key_value_heads=2, attn_implementation=attention, **SMALL)
    agrees(model, {"input_ids": TOKENS}, 2 * 4 * 144 * 16)


def test_t5():
    model = build("T5", vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    inputs = {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :5]}
    # encoder 12 x 12, decoder 5 x 5 and 5 x 12, twice each; 4 heads, 8 wide
    agrees(model, inputs, 2 * 4 * 16 * (144 + 25 + 60))


@pytest.mark.parametrize("experts", ["eager", "batched_mm", "grouped_mm"])
def test_mixtral_counts_two_of_four_experts(experts):
    model = build("Mixtral", intermediate_size=64, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
                  experts_implementation=experts, **SMALL)  # fmt: skip
    found = count_macs(model, {"input_ids": TOKENS})
    experts = [macs for name, macs in found.by_module.items() if name.endswith("experts")]
    assert experts == [12 * 2 * 3 * 32 * 64] * 2  # 12 tokens, 2 experts each, 3 matrices
    # the router: 12 tokens to 4 experts, in 2 layers
    router = sum(macs for name, macs in found.by_module.items() if "gate" in name or "router" in name)
    assert router == 2 * 12 * 32 * 4
    layers = layers_macs(model, {"input_ids": TOKENS})
    attention = 2 * 4 * 144 * 16
    assert found.total - sum(experts) - attention - layers in (0, router)  # a layer, or a function
    assert not found.uncounted


def test_whisper():
    model = build("Whisper", vocab_size=64, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                  decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=8,
                  max_source_positions=10, max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                  decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None)  # fmt: skip
    inputs = {"input_features": torch.randn(1, 8, 20), "decoder_input_ids": TOKENS[:, :5]}
    # encoder 10 x 10, decoder 5 x 5 and 5 x 10, twice each; 4 heads, 8 wide
    agrees(model, inputs, 2 * 4 * 16 * (100 + 25 + 50))


def test_swin():
    model = build("Swin", image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4)
    # 4 windows of 16 tokens with 2 heads, then 1 window with 4 heads; 8 wide
    agrees(model, {"pixel_values": torch.randn(1, 3, 32, 32)}, 4 * 2 * 256 * 16 + 4 * 256 * 16)
