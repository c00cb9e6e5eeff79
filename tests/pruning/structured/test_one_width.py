"""Cuts that a configuration expresses, and configurations that follow."""

import pytest
import torch

from compresskit.artifact import artifact
from compresskit.core.types import call, main_output
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context
from tests.tiny_transformers import tiny


def cut(loaded, **options):
    return prune(loaded, PruneOptions(**options), Context(loaded.clone()))


def output_of(loaded):
    with torch.no_grad():
        return main_output(call(loaded.module, loaded.example))


@pytest.mark.parametrize("kind", ["Llama", "Bert"])
@pytest.mark.integration
def test_layers_keep_one_width_and_what_is_saved_loads_in_the_library(kind, tmp_path):
    loaded = tiny(tmp_path / "source", kind)
    found = cut(loaded, target_macs=0.6)
    assert found.facts["macs_kept"] <= 0.6
    artifact.save(loaded, tmp_path / "artifact")
    again = artifact.load(tmp_path / "artifact")
    again.module.save_pretrained(tmp_path / "folder")
    module = type(again.module).from_pretrained(tmp_path / "folder").eval()
    with torch.no_grad():
        torch.testing.assert_close(main_output(call(module, loaded.example)), output_of(loaded), rtol=0, atol=1e-6)
    assert module.config.hidden_size < 32


@pytest.mark.integration
def test_free_widths_differ_and_the_report_says_what_that_means(tmp_path):
    loaded = tiny(tmp_path)
    found = cut(loaded, ratios={"model.layers.0.mlp.gate_proj": 0.5}, widths="free")
    assert loaded.module.model.layers[0].mlp.up_proj.out_features == 24
    assert loaded.module.model.layers[1].mlp.up_proj.out_features == 48
    assert [edit for edit in loaded.edits if edit["op"] == "config"] == []
    assert any("from_pretrained will not load the result: layers have different widths" in line for line in found.notes)


@pytest.mark.integration
def test_blocks_leave_their_list_and_generation_caches_fit(tmp_path):
    loaded = tiny(tmp_path / "source")
    cut(loaded, granularity="block", ratio=0.34)
    assert loaded.module.config.num_hidden_layers == 2 == len(loaded.module.model.layers)
    ids = loaded.example["input_ids"]
    continued = loaded.module.generate(input_ids=ids, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert int(continued[0, -2]) == int(output_of(loaded)[0, -1].argmax())
    artifact.save(loaded, tmp_path / "artifact")
    torch.testing.assert_close(output_of(artifact.load(tmp_path / "artifact")), output_of(loaded), rtol=0, atol=0)


@pytest.mark.integration
def test_a_16_bit_model_stays_one(tmp_path):
    loaded = tiny(tmp_path, dtype=torch.bfloat16)
    cut(loaded, ratio=0.25)
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.bfloat16}
