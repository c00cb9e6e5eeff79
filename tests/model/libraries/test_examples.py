"""Every kind of transformers model gets inputs that its forward takes, in its own dtype."""

from __future__ import annotations

import pytest
import torch

from compresskit.artifact import artifact
from compresskit.artifact.probing import outputs_of
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.model.example_inputs import describe, make

_TEXT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}
_SEQ = {
    "vocab_size": 64,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_IMAGE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
FAMILIES = {
    "bert": ("BertForSequenceClassification", "BertConfig", _TEXT, {"input_ids"}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _TEXT, {"input_ids"}),
    "short": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 9, "n_embd": 16, "n_layer": 1, "n_head": 2,
              "n_positions": 7, "bos_token_id": 0, "eos_token_id": 0}, {"input_ids"}),
    "t5": ("T5ForConditionalGeneration", "T5Config", {"vocab_size": 64, "d_model": 16, "d_ff": 32, "d_kv": 8,
           "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}, {"input_ids", "decoder_input_ids"}),
    "bart": ("BartForConditionalGeneration", "BartConfig", _SEQ, {"input_ids", "decoder_input_ids"}),
    "bart-classes": ("BartForSequenceClassification", "BartConfig", _SEQ | {"num_labels": 3},
                     {"input_ids", "decoder_input_ids"}),
    "vit": ("ViTForImageClassification", "ViTConfig", _IMAGE, {"pixel_values"}),
    "videomae": ("VideoMAEForVideoClassification", "VideoMAEConfig", _IMAGE | {"num_frames": 4}, {"pixel_values"}),
    "clip": ("CLIPModel", "CLIPConfig", {"text_config": _TEXT, "vision_config": _IMAGE, "projection_dim": 8},
             {"input_ids", "pixel_values"}),
    "clip-vision": ("CLIPVisionModel", "CLIPVisionConfig", _IMAGE, {"pixel_values"}),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", _SEQ | {"num_mel_bins": 8,
                "max_source_positions": 10, "max_target_positions": 16}, {"input_features", "decoder_input_ids"}),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32,
                 "num_hidden_layers": 1, "num_attention_heads": 2, "conv_dim": [8, 8], "conv_stride": [5, 2],
                 "conv_kernel": [10, 3], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
                 {"input_values"}),
    "ast": ("ASTForAudioClassification", "ASTConfig", {"hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_length": 40, "num_mel_bins": 16}, {"input_values"}),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_family_takes_its_example_and_reloads(family, dtype, tmp_path):
    model, config, settings, names = FAMILIES[family]
    torch.manual_seed(0)
    transformers = pytest.importorskip("transformers")
    module = getattr(transformers, model)(getattr(transformers, config)(**settings)).to(dtype)
    module.save_pretrained(tmp_path / "folder")
    loaded = load_model(f"hf:{tmp_path / 'folder'}")
    assert set(loaded.example) == names
    for name, value in loaded.example.items():
        assert value.shape[0] == 1
        assert value.dtype == (torch.int64 if name.endswith("_ids") else dtype)
        assert torch.equal(make(describe(value)), value)
    if dtype == torch.float32:
        wanted = outputs_of(loaded)
        artifact.save(loaded, tmp_path / "a")
        found = outputs_of(artifact.load(tmp_path / "a"))
        assert wanted.keys() == found.keys()
        for path, value in wanted.items():  # weights mapped from a file lie at other addresses: kernels round otherwise
            assert torch.allclose(value, found[path], rtol=1e-5, atol=1e-6), path


def test_ids_leave_special_tokens_out(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.RobertaConfig(**_TEXT, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    transformers.RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    ids = load_model(f"hf:{tmp_path}").example["input_ids"]
    assert ids.shape == (1, 16)
    assert not {0, 1, 2} & set(ids.flatten().tolist())
    assert len(set(ids.flatten().tolist())) == 16


def test_a_model_without_a_known_example_says_so(tmp_path):
    transformers = pytest.importorskip("transformers")
    from compresskit.model.libraries.examples import transformers_example

    class Picky(torch.nn.Linear):
        main_input_name = "input_ids"

        def forward(self, input_ids, pixel_values=None):
            raise ValueError("no such thing")

    with pytest.raises(InputError, match="hf:picky: no example .*no such thing.*--input"):
        transformers_example(Picky(2, 2), transformers.CLIPConfig(), "picky")
