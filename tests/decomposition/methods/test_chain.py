"""Decompose, prune, quantize in one recipe, on trained weights: factored layers are plain layers to the other steps."""

import pytest
import torch

from compresskit.artifact.artifact import load
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run


@pytest.mark.slow
def test_factored_layers_are_pruned_in_rank_and_quantized(digits_model, tmp_path):
    steps = [
        {"decompose": {"target_macs": 0.6, "objective": "activation", "kind": "channel-svd", "slower_layers": "allow"}},
        {"prune": {"target_macs": 0.7, "recover": "finetune", "epochs": 2}},
        {"quantize": {"scheme": "int8-weight"}},
    ]
    recipe = validate({"model": str(digits_model), "data": "digits", "latency_rounds": 0, "steps": steps})
    report = run(Run(recipe, tmp_path / "out"))
    measured = [report["original"], *(step["measurement"] for step in report["steps"])]
    accuracies = [one["metric"]["value"] for one in measured]
    assert accuracies[1] > accuracies[0] - 0.03
    assert accuracies[3] > accuracies[0] - 0.06
    macs = [one["macs"] for one in measured]
    assert macs[1] <= 0.6 * macs[0] and macs[2] < 0.75 * macs[1]
    loaded = load(tmp_path / "out")
    ranks = {edit["target"]: edit["rank"] for edit in loaded.edits if edit["op"] == "factored"}
    quantized = {edit["target"] for edit in loaded.edits if edit["op"] == "quantized"}
    assert ranks and all({f"{name}.0", f"{name}.1"} <= quantized for name in ranks)
    resized = {
        edit["target"]: edit["shapes"]["weight"][0]
        for edit in loaded.edits
        if edit["op"] == "resize" and "weight" in edit["shapes"]
    }
    assert any(resized.get(f"{name}.0", rank) < rank for name, rank in ranks.items())
    assert torch.isfinite(loaded.module(loaded.example)).all()
