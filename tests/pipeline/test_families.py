"""Small transformers models of different kinds go through whole runs of every technique."""

from __future__ import annotations

import pytest
import torch

from compresskit.artifact import artifact
from compresskit.pipeline.inspection.looking import inspect_model
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run

pytestmark = pytest.mark.integration

_LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEXT = _LAYERS | {"vocab_size": 64, "max_position_embeddings": 32}
_IMAGE = _LAYERS | {"image_size": 16, "patch_size": 8}
FAMILIES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _TEXT | {"num_key_value_heads": 2}),
    "clip": ("CLIPModel", "CLIPConfig", {"text_config": _TEXT, "vision_config": _IMAGE, "projection_dim": 16}),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", _LAYERS | {"vocab_size": 32, "conv_dim": [16, 16],
                 "conv_stride": [5, 2], "conv_kernel": [10, 3], "num_conv_pos_embeddings": 8,
                 "num_conv_pos_embedding_groups": 2}),
}  # fmt: skip
STEPS = {
    "channels": {"prune": {"target_macs": 0.75}},
    "blocks": {"prune": {"granularity": "block", "ratio": 0.5}},
    "int4": {"quantize": {"scheme": "int4-weight"}},
    "svd": {"decompose": {"rank_by": "keep-ratio", "keep_ratio": 0.5, "slower_layers": "allow"}},
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    transformers = pytest.importorskip("transformers")

    def make(family):
        folder = tmp_path_factory.getbasetemp() / f"family-{family}"
        if not folder.is_dir():
            model, config, settings = FAMILIES[family]
            torch.manual_seed(0)
            getattr(transformers, model)(getattr(transformers, config)(**settings)).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("step", STEPS)
def test_a_family_goes_through_a_technique_and_reloads(family, step, folder_of, tmp_path):
    recipe = validate({"model": f"hf:{folder_of(family)}", "latency_rounds": 0, "steps": [STEPS[step]]})
    report = run(Run(recipe, tmp_path / "out", keep_steps=False))
    before, after = report["original"], report["steps"][-1]["measurement"]
    if step == "int4":
        assert after["size_bytes"] < 0.6 * before["size_bytes"]
    else:
        assert after["macs"] < 0.85 * before["macs"]
    again = artifact.load(tmp_path / "out")
    assert inspect_model(again)["macs"] == after["macs"]
