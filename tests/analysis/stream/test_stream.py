"""What is added up from layer to layer of a transformer, who writes into it, and who reads it."""

import pytest
import torch
from torch import nn

from compresskit.analysis.stream.stream import find_stream
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration


def test_the_stream_of_a_language_model(tmp_path):
    loaded = tiny(tmp_path / "model")
    found = find_stream(loaded)
    assert (found.width, found.embeddings, found.centred) == (32, ["model.embed_tokens"], False)
    layers = [f"model.layers.{number}" for number in range(3)]
    assert sorted(found.writers) == sorted(f"{layer}.{name}" for layer in layers for name in
                                           ("self_attn.o_proj", "mlp.down_proj"))  # fmt: skip
    assert sorted(found.readers["model.layers.1.input_layernorm"]) == [
        f"model.layers.1.self_attn.{name}_proj" for name in "kqv"
    ]
    assert found.readers["model.norm"] == ["lm_head"]
    assert [(values, width) for values, _, width in found.attentions] == [
        (f"{layer}.self_attn.v_proj", 8) for layer in layers
    ]


def test_models_without_one_are_refused(tmp_path):
    with pytest.raises(InputError, match="rotate: the model has no stream to turn: it embeds no tokens"):
        find_stream(Loaded(nn.Sequential(nn.Linear(3, 3)), {}, torch.zeros(1, 3)))
    loaded = tiny(tmp_path / "model")
    loaded.edits.append({"op": "quantized", "target": "lm_head"})
    with pytest.raises(InputError, match="some of its layers are quantized"):
        find_stream(loaded)
    both = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))
    with pytest.raises(InputError, match="no normalization feeds linear layers"):
        find_stream(Loaded(both, {}, torch.zeros(1, 3, dtype=torch.long)))
