"""What a model expects of text."""

from __future__ import annotations

import pytest
from torch import nn

from compresskit.model.text_inputs import is_causal, text_inputs_of
from tests.tiny_transformers import tiny

SMALL = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.mark.parametrize(
    ("name", "config", "kind", "longest"),
    [
        ("LlamaForCausalLM", {"max_position_embeddings": 64}, "causal", 64),
        ("LlamaForSequenceClassification", {}, "classifier", 2048),
        ("LlamaModel", {}, "encoder", 2048),
        ("BertForMaskedLM", {}, "masked", 512),
        ("BertModel", {}, "encoder", 512),
        ("RobertaForMaskedLM", {"max_position_embeddings": 66}, "masked", 64),
    ],
)
def test_kinds(name, config, kind, longest):
    transformers = pytest.importorskip("transformers")
    made = getattr(transformers, name)
    found = text_inputs_of(made(made.config_class(**SMALL, **config)))
    assert found is not None and (found.kind, found.max_length, found.vocabulary) == (kind, longest, 50)
    assert found.tokenizer is None


def test_an_encoder_decoder_starts_its_decoder():
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=50, d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4, decoder_start_token_id=7
    )
    found = text_inputs_of(transformers.T5ForConditionalGeneration(config))
    assert found is not None and (found.kind, found.start) == ("seq2seq", 7)


def test_models_of_other_inputs_have_none(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    assert text_inputs_of(transformers.ViTModel(config)) is None and text_inputs_of(nn.Linear(2, 2)) is None


def test_the_first_folder_with_a_tokenizer_counts(tmp_path):
    transformers = pytest.importorskip("transformers")
    module = transformers.BertModel(transformers.BertConfig(**SMALL))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "tokenizer.json").write_text("{}")
    found = text_inputs_of(module, tmp_path / "a", tmp_path / "b")
    assert found is not None and found.tokenizer == str(tmp_path / "b")


def test_models_that_predict_next_tokens(tmp_path):
    assert is_causal(tiny(tmp_path / "llama").module)
    assert not is_causal(tiny(tmp_path / "bert", kind="Bert").module)
    assert not is_causal(nn.Linear(2, 2))
