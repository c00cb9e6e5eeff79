"""Models as the library builds them, with our weights."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.export.folders.rebuild import different_tensors, library_model
from compresskit.model.plain_weights import fold_checked
from compresskit.quantization.transforms.folding import fold_batchnorm
from tests.tiny_transformers import tiny


def test_weights_are_shared_and_the_number_type_is_kept(tmp_path):
    loaded = tiny(tmp_path, dtype=torch.float16)
    found = library_model(loaded.module, [])
    assert found.lm_head.weight.data_ptr() == loaded.module.lm_head.weight.data_ptr()
    assert found.config.dtype is torch.float16


def test_a_normalization_that_a_layer_took_up_only_adds_the_bias():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    module = transformers.ResNetForImageClassification(config).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    loaded = Loaded(module, {"kind": "hf"}, torch.randn(1, 3, 32, 32))
    with torch.no_grad():
        before = module(loaded.example).logits
        assert fold_batchnorm(loaded)
        found = library_model(loaded.module, loaded.edits)
        torch.testing.assert_close(found(loaded.example).logits, before, rtol=1e-4, atol=1e-5)


def test_folded_weight_norms_are_parametrized_again():
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        conv_dim=[8, 8], conv_stride=[5, 2], conv_kernel=[10, 3], num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    module = transformers.Wav2Vec2ForCTC(config).eval()
    example = torch.randn(1, 400)
    with torch.no_grad():
        before = module(example).logits
        edits, _ = fold_checked(module, example)
        assert [edit["op"] for edit in edits] == ["plain_weights"]
        found = library_model(module, edits)
        assert "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0" in found.state_dict()
        torch.testing.assert_close(found(example).logits, before, rtol=1e-5, atol=1e-6)


def test_tensors_that_differ_are_named(tmp_path):
    loaded = tiny(tmp_path)
    assert different_tensors({"a": (2,)}, {}) == "it lacks a, compared with what its configuration builds"
    assert different_tensors({}, {"b": torch.zeros(1)}).startswith("it has b besides")
    assert different_tensors({"a": (2,)}, {"a": torch.zeros(1)}) == "a is [1], and [2] as its configuration builds it"
    loaded.module.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 40, bias=False)
    with pytest.raises(InputError, match="layers.0.mlp.up_proj.weight is .40, 32., model.layers.1"):
        library_model(loaded.module, [])


def test_a_linear_layer_in_the_place_of_a_conv1d_is_turned():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    module = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.arange(6).unsqueeze(0)
    with torch.no_grad():
        before = module(ids).logits
        for name in ("attn.c_attn", "mlp.c_proj"):
            conv = module.transformer.h[0].get_submodule(name)
            linear = torch.nn.Linear(conv.nx, conv.nf)
            linear.weight.copy_(conv.weight.T)
            linear.bias.copy_(conv.bias)
            parent, _, last = name.rpartition(".")
            setattr(module.transformer.h[0].get_submodule(parent), last, linear)
        found = library_model(module, [])
        torch.testing.assert_close(found(ids).logits, before)
    assert type(found.transformer.h[0].mlp.c_proj).__name__ == "Conv1D"
