"""What a run leaves in its output."""

from __future__ import annotations

import json

import pytest

from compresskit.artifact import artifact
from compresskit.core.errors import GuardMissed
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run


@pytest.mark.integration
def test_the_output_holds_the_last_model_the_whole_report_and_the_recipe(tmp_path):
    steps = [{"prune": {"ratio": 0.5, "reconstruct": "none"}}, {"quantize": {"effort": "fast"}}]
    recipe = validate({"model": "builtin:digits_cnn_small", "latency_rounds": 0, "steps": steps})
    report = run(Run(recipe, tmp_path / "out", keep_steps=False))
    assert json.loads((tmp_path / "out" / "recipe.json").read_text()) == recipe.content()
    assert [step["technique"] for step in json.loads((tmp_path / "out" / artifact.REPORT).read_text())["steps"]] == [
        "prune",
        "quantize",
    ]
    assert report["weights_sha256"] == artifact.read_manifest(tmp_path / "out")["weights_sha256"]
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out.steps").exists()


def test_a_model_that_missed_its_guard_is_kept_and_marked(tmp_path):
    recipe = validate(
        {"model": "builtin:digits_cnn_small", "latency_rounds": 0, "steps": [{"quantize": {"max_bytes": 10}}]}
    )
    with pytest.raises(GuardMissed, match="max_bytes is 10.*; the model that missed is .*0-quantize.missed") as caught:
        run(Run(recipe, tmp_path / "out"))
    kept = tmp_path / "out.steps" / "0-quantize.missed"
    assert caught.value.artifact == str(kept)
    assert "max_bytes is 10" in artifact.read_manifest(kept)["provenance"]["guard_missed"]
    assert "max_bytes is 10" in json.loads((kept / artifact.REPORT).read_text())["guard_missed"]
    assert artifact.load(kept).module is not None
    with pytest.raises(GuardMissed):
        run(Run(recipe, tmp_path / "out", resume=True))  # it is not taken for a finished step
    assert kept.is_dir() and not (tmp_path / "out").exists()
