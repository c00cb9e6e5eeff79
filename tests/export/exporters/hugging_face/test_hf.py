"""Transformers folders, loaded in a fresh process."""

import json

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.export.exporters.hugging_face.hf import hf
from compresskit.export.folders.proof import named_inputs, own_output, prove
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.model.libraries.stored_dtypes import stored_dtypes, weight_files
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration
HF = ExportOptions(format="hf")
SVD = DecomposeOptions(rank_by="keep-ratio", keep_ratio=0.5, slower_layers="allow")


def pruned(folder, **given):
    loaded = tiny(folder, **given)
    prune(loaded, PruneOptions(target_macs=0.6), Context(loaded.clone()))
    prune(loaded, PruneOptions(granularity="block", ratio=0.34), Context(loaded.clone()))
    return loaded


def test_folders_compute_in_a_fresh_process_what_the_models_compute(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "tokenizer_config.json").write_text("{}")
    sharded = pruned(source, dtype=torch.bfloat16, shard="10KB")
    int4 = tiny(tmp_path / "int4-source")
    quantize(int4, QuantizeOptions(scheme="int4-weight"), Context(int4.clone()))
    jobs = []
    for name, loaded in {"sharded": sharded, "bert": pruned(tmp_path / "b", kind="Bert"), "int4": int4}.items():
        (tmp_path / name).mkdir()
        notes = hf(loaded, tmp_path / name, HF)
        assert bool(notes) == (name == "int4")
        jobs.append((tmp_path / name, named_inputs(loaded), own_output(loaded)))
    first, second, third = prove(jobs, new_tokens=2)
    assert (first.error, second.error, third.error) == ("", "", "")
    assert max(first.difference, second.difference, third.difference) <= 1e-6
    assert first.loader == "AutoModelForCausalLM" and first.generated.shape == (1, 8)
    assert second.loader == "AutoModelForSequenceClassification" and second.generated is None
    assert set(stored_dtypes(tmp_path / "sharded").values()) == {torch.bfloat16}
    assert len(weight_files(tmp_path / "sharded")) > 1
    assert (tmp_path / "sharded" / "tokenizer_config.json").read_text() == "{}"
    assert json.loads((tmp_path / "sharded" / "config.json").read_text())["num_hidden_layers"] == 2


def test_layers_of_different_widths_are_refused_with_their_names(tmp_path):
    loaded = tiny(tmp_path / "source")
    options = PruneOptions(ratios={"model.layers.0.mlp.gate_proj": 0.5}, widths="free")
    prune(loaded, options, Context(loaded.clone()))
    with pytest.raises(InputError, match=r"different widths \(model.layers.0.*model.layers.1.*--widths uniform"):
        hf(loaded, tmp_path, HF)


def test_factors_are_refused_or_merged(tmp_path):
    loaded = tiny(tmp_path / "source")
    decompose(loaded, SVD, Context(loaded.clone()))
    with pytest.raises(InputError, match="products of factors.*--factored merge"):
        hf(loaded, tmp_path, HF)
    (note,) = hf(loaded, tmp_path, ExportOptions(format="hf", factored="merge"))
    assert "multiplied out" in note
    module = type(loaded.module).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(module(**loaded.example).logits, own_output(loaded), rtol=0, atol=1e-5)


def test_quantized_activations_are_refused(tmp_path):
    loaded = tiny(tmp_path / "source")
    quantize(loaded, QuantizeOptions(scheme="int8-dynamic"), Context(loaded.clone()))
    with pytest.raises(InputError, match="layers quantize their activations"):
        hf(loaded, tmp_path, HF)


def test_a_model_of_another_library_is_refused(loaded_net, tmp_path):
    with pytest.raises(InputError, match="is not a transformers model"):
        hf(loaded_net(), tmp_path, HF)


@pytest.mark.slow
def test_export_writes_a_card_with_what_was_measured(tmp_path):
    loaded = tiny(tmp_path / "source")
    options = ExportOptions(format="hf", rounds=1)
    facts = export(loaded, options, Context(original=loaded), tmp_path / "out")
    assert facts["fresh_process_difference"] == 0 == facts["largest_difference"]
    assert facts["loaded_by"] == "AutoModelForCausalLM" and facts["runtime"] == "transformers"
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| parameters | {facts['parameters']:,} |" in card and "library_name: transformers" in card
    with pytest.raises(ValueError, match="factored would be ignored"):
        ExportOptions(format="onnx", factored="merge")
