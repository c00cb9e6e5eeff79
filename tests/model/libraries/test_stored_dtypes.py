"""Number types of transformers folders."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.model.libraries.stored_dtypes import loading_dtype, main_dtype, stored_dtypes


@pytest.fixture
def folder(tmp_path):
    """A tiny BERT in bfloat16, one of its norms in float32."""
    torch.manual_seed(0)
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertForSequenceClassification(config).to(torch.bfloat16).save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors = load_file(path)
    name = "bert.encoder.layer.0.output.LayerNorm.weight"
    tensors[name] = torch.full((16,), 1 + 2**-20)  # no bfloat16 number
    save_file(tensors, path, metadata={"format": "pt"})
    return tmp_path / "m"


def test_a_folder_is_loaded_in_its_own_types(folder):
    stored = load_file(folder / "model.safetensors")
    assert stored_dtypes(folder) == {name: value.dtype for name, value in stored.items()}
    loaded = load_model(f"hf:{folder}")
    found = loaded.module.state_dict()
    assert set(stored) <= set(found)
    for name, value in stored.items():
        assert found[name].dtype is value.dtype
        assert torch.equal(found[name], value), name
    assert loaded.source["config"]["dtype"] == "bfloat16"


def test_sharded_folders_are_read_by_their_index(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    path.unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert stored_dtypes(folder) == {name: value.dtype for name, value in tensors.items()}
    (folder / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b\.safetensors"):
        stored_dtypes(folder)


def test_types_that_hold_everything():
    stored = {"a": torch.bfloat16, "b": torch.bfloat16, "c": torch.float16}
    assert main_dtype(stored) is torch.bfloat16
    assert loading_dtype(stored) is torch.float32
    assert loading_dtype({"a": torch.float16}) is torch.float16
    assert main_dtype({}) is None
