"""What lies in a transformers folder beside the weights."""

import json

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.export.folders.folder import model_card, naming, save_library_model, weight_bytes
from compresskit.export.folders.rebuild import library_model
from tests.tiny_transformers import tiny


def test_companions_go_along_and_repeated_widths_follow(tmp_path):
    loaded = tiny(tmp_path / "source")
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text(json.dumps({"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True}))
    loaded.companions["1_Pooling/config.json"] = pooling
    save_library_model(library_model(loaded.module, []), loaded, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert written == {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    assert weight_bytes(tmp_path / "out") == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert (tmp_path / "out" / "generation_config.json").is_file()


def test_a_card_says_what_was_done_and_measured():
    edits = [{"op": "resize"}, {"op": "resize"}, {"op": "config", "values": {"hidden_size": 8}}]
    card = model_card(Loaded(torch.nn.Linear(1, 1), {}, torch.zeros(1, 1), edits, name="dir/net"), {"macs": 12345})
    assert "# net, compressed" in card and "Edits: 2 resize, 1 config." in card
    assert "`hidden_size` 8" in card and "| macs | 12,345 |" in card


def test_what_is_refused_is_said_with_the_models_name():
    def refuse():
        raise InputError("no")

    with pytest.raises(InputError, match="model 'net' cannot be a transformers folder: no"):
        naming(Loaded(torch.nn.Linear(1, 1), {}, torch.zeros(1, 1), name="net"), refuse)
