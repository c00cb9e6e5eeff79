"""Layers that transformers initializes by hand are found, and stay floats in packed folders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.export.folders.library_init import hand_initialized, loadable

transformers = pytest.importorskip("transformers")


def linear(model):
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]


def test_the_layers_that_a_familys_own_initialization_reads_are_found():
    config = transformers.MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = transformers.MambaForCausalLM(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = hand_initialized(model, linear(model))
    assert {name.rpartition(".")[2] for name in found} == {"dt_proj", "out_proj"}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    kept = loadable(model, dict.fromkeys(linear(model), 1))
    assert set(kept) == set(linear(model)) - set(found) and any("in_proj" in name for name in kept)


def test_a_family_that_asks_first_keeps_all_and_one_that_reads_all_is_refused():
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    llama = transformers.LlamaForCausalLM(config)
    assert hand_initialized(llama, linear(llama)) == [] == hand_initialized(nn.Linear(2, 2), [""])
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    resnet = transformers.ResNetForImageClassification(config)
    with pytest.raises(InputError, match="reads `weight` of every packed layer .classifier.1"):
        loadable(resnet, dict.fromkeys(linear(resnet), 1))
