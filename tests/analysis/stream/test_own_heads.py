"""Heads that share the embedding's weight get their own where activations are quantized, too."""

import pytest
import torch

from compresskit.analysis.stream.own_heads import shared_heads, untie
from compresskit.artifact.artifact import load, save
from compresskit.core.types import Loaded
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

transformers = pytest.importorskip("transformers")


@pytest.fixture
def tied(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "hf")
    from compresskit.artifact.source import load_model

    return load_model(f"hf:{tmp_path / 'hf'}")


def logits(loaded: Loaded):
    with torch.no_grad():
        return loaded.module(input_ids=torch.arange(12).reshape(1, 12)).logits


def test_an_untied_head_computes_the_same_with_another_tensor(tied):
    before = logits(tied)
    assert shared_heads(tied.module) == {"lm_head": "model.embed_tokens"}
    untie(tied, "lm_head")
    assert shared_heads(tied.module) == {} and tied.edits == [{"op": "untie", "target": "lm_head"}]
    torch.testing.assert_close(logits(tied), before, rtol=0, atol=0)


def test_int8_dynamic_quantizes_both_tables_and_loads_again(tied, tmp_path):
    before = logits(tied)
    quantize(tied, QuantizeOptions(scheme="int8-dynamic"), Context(tied))
    assert tied.module.lm_head.spec.input == "dynamic" and tied.module.model.embed_tokens.spec.bits == 8
    after = logits(tied)
    assert (after - before).abs().max() < 0.03 * before.abs().max()
    save(tied, tmp_path / "artifact")
    torch.testing.assert_close(logits(load(tmp_path / "artifact")), after, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"scheme": "int8-weight"}, {"scheme": "int8-dynamic", "skip": ["lm_head"]}])
def test_weights_alone_and_skipped_heads_stay_one_tensor(tied, options):
    quantize(tied, QuantizeOptions(**options), Context(tied))
    assert tied.module.lm_head.weight is tied.module.model.embed_tokens.weight
