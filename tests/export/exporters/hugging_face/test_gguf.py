"""GGUF files, as the library gguf and transformers read them."""

import json

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.export.exporters.hugging_face.gguf import gguf
from compresskit.export.folders.proof import own_output
from compresskit.export.options import ExportOptions
from compresskit.export.runtimes.exported import Exported
from compresskit.export.runtimes.transformers import transformers
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context
from tests.tiny_transformers import tiny

library = pytest.importorskip("gguf")
OPTIONS = ExportOptions(format="gguf")
GROUPS = {"granularity": "group", "group_size": 32}


def quantized(folder, **scheme):
    loaded = tiny(folder, intermediate_size=64)
    if scheme:
        quantize(loaded, QuantizeOptions(**scheme), Context(loaded.clone()))
    return loaded


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        ({"scheme": "int4-weight", **GROUPS}, "Q4_0"),
        ({"scheme": "int3-weight", **GROUPS}, "Q4_0"),
        ({"scheme": "int4-weight", "weight_range": "affine", **GROUPS}, "Q4_1"),
        ({"scheme": "int8-weight"}, "Q8_0"),
        ({}, "F32"),
    ],
)
def test_the_library_reads_the_weights_that_the_model_has(scheme, kind, tmp_path):
    loaded = quantized(tmp_path / "source", **scheme)
    note, *_ = gguf(loaded, tmp_path / "model.gguf", OPTIONS)
    assert kind in note
    tensors = {one.name: one for one in library.GGUFReader(tmp_path / "model.gguf").tensors}
    for name, ours in (("ffn_up", "mlp.up_proj"), ("attn_q", "self_attn.q_proj"), ("attn_v", "self_attn.v_proj")):
        found = tensors[f"blk.1.{name}.weight"]
        assert found.tensor_type.name == kind
        weight = torch.from_numpy(library.dequantize(found.data, found.tensor_type).copy())
        wanted = loaded.module.get_submodule(f"model.layers.1.{ours}").weight.detach()
        if name == "attn_q":  # halves of each head in turns
            wanted = wanted.reshape(4, 2, 4, 32).swapaxes(1, 2).reshape(32, 32)
        torch.testing.assert_close(weight, wanted, rtol=2e-3, atol=5e-5)  # scales are float16 in the file


@pytest.mark.integration
def test_transformers_computes_from_the_file_what_the_model_computes(tmp_path):
    pytest.importorskip("accelerate")
    loaded = quantized(tmp_path / "source", scheme="int8-weight")
    gguf(loaded, tmp_path / "model.gguf", OPTIONS)
    runner = transformers(Exported(loaded.module, None, tmp_path / "model.gguf", loaded.example, 1))
    with torch.no_grad():
        torch.testing.assert_close(runner(**loaded.example).logits, own_output(loaded), rtol=0, atol=2e-3)


def test_a_byte_level_tokenizer_goes_into_the_file_and_others_are_refused(tmp_path):
    loaded = quantized(tmp_path / "source")
    content = {
        "model": {"type": "BPE", "vocab": {"a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "added_tokens": [{"id": 0, "content": "<end>", "special": True}],
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    loaded.companions["tokenizer.json"] = path
    gguf(loaded, tmp_path / "model.gguf", OPTIONS)
    fields = library.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.tokens"].contents()[:5] == ["<end>", "a", "b", "ab", "[PAD4]"]
    assert fields["tokenizer.ggml.merges"].contents() == ["a b"]
    path.write_text(json.dumps(content | {"model": content["model"] | {"merges": []}}))
    with pytest.raises(InputError, match="has no merges"):
        gguf(loaded, tmp_path / "model.gguf", OPTIONS)
    path.write_text(json.dumps(content | {"pre_tokenizer": {"type": "Metaspace"}}))
    with pytest.raises(InputError, match="no plain byte-level BPE"):
        gguf(loaded, tmp_path / "other.gguf", OPTIONS)


def test_other_architectures_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a BertForSequenceClassification; GGUF files"):
        gguf(tiny(tmp_path, "Bert"), tmp_path / "model.gguf", OPTIONS)
