"""Every recipe of configs/ runs in a small form, and what it promises shows in its report.

The larger ones stand in tests/test_recipes.py. Models and data that a recipe names are replaced by small ones; its
steps and their options stay, except for how long they train.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from compresskit.core.errors import GuardMissed
from compresskit.pipeline.recipe import read_recipe
from compresskit.pipeline.runner import Run, run
from examples.audio_commands import write_sounds
from examples.forecast_lstm import write_series
from tests.conftest import REPOSITORY

CONFIGS = REPOSITORY / "configs"
#: recipes with a test of their own
ELSEWHERE = {"cifar10-resnet56", "encoder", "export-int8", "llm", "quickstart"}
#: of a trained network for digits: settings beside model and data
CLASSIFIERS = {
    "ci-guard": ["steps.0.train.epochs=0.1", "steps.0.train.lr=0.001"],
    "deep-compression": ["steps.0.prune.epochs=1", "steps.1.quantize.max_drop=5%"],
    "distill-student": ["steps.0.distill.student_depth=1", "steps.0.distill.epochs=1"],
    "edge-classifier": ["steps.0.quantize.max_drop=3%", "steps.1.export.max_drop=3%",
                        "steps.1.export.min_speedup=null", "steps.1.export.rounds=0"],
    "low-rank": ["steps.0.decompose.slower_layers=allow", "steps.0.decompose.max_drop=20%"],
    "qat": ["steps.0.quantize.max_drop=20%"],
    "search-two-budgets": ["steps.0.search.trials=3", "steps.0.search.epochs=1", "steps.0.search.max_drop=30%"],
    "sparse-2-4": ["steps.0.prune.iterations=5", "steps.0.prune.joint_iterations=5", "steps.0.prune.max_drop=5%"],
    "under-1mb": ["steps.0.search.trials=3", "steps.0.search.target_bytes=8kB", "steps.0.search.max_bytes=12kB",
                  "steps.0.search.max_drop=50%"],
}  # fmt: skip
#: shares of the original that are left at the most: (multiply-accumulates, bytes)
LEFT = {
    "audio": (0.5, 0.25), "ci-guard": (1, 0.33), "data-free": (1, 0.4), "deep-compression": (1, 0.15),
    "detector": (0.5, 0.25), "distill-student": (0.35, 0.2), "edge-classifier": (1, 0.9), "forecaster": (0.35, 0.25),
    "half-latency": (0.9, 0.9), "low-rank": (0.5, 0.7), "qat": (1, 0.2), "search-two-budgets": (0.5, 0.2),
    "segmentation": (0.5, 0.25), "sparse-2-4": (1, 0.7), "under-1mb": (1, 0.3),
}  # fmt: skip


def left_of(name: str, settings: list[str], folder: Path) -> tuple[float, float]:
    """Shares of the original's multiply-accumulates and bytes that are left when a recipe has run."""
    recipe = read_recipe(CONFIGS / f"{name}.yaml", ("latency_rounds=0", *settings))
    report = run(Run(recipe, folder / "out"))
    original, final = report["original"], report["steps"][-1]["measurement"]
    return final["macs"] / original["macs"], final["size_bytes"] / original["size_bytes"]


def test_every_recipe_runs_in_a_test():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == ELSEWHERE | set(LEFT)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_recipe_for_a_classifier(name, digits_model, tmp_path):
    if name == "edge-classifier":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    settings = [f"model={digits_model}", "weights=null", "data=digits", *CLASSIFIERS[name]]
    macs, size = left_of(name, settings, tmp_path)
    assert macs <= LEFT[name][0] and size <= LEFT[name][1]


@pytest.mark.slow
def test_half_of_the_latency(digits_model, tmp_path):
    settings = [f"model={digits_model}", "weights=null", "data=digits", "latency_rounds=2", "latency_batch=64",
                "steps.0.prune.epochs=0.2", "steps.0.prune.reconstruct=none", "steps.0.prune.max_latency=null",
                "steps.0.prune.max_drop=90%", "steps.0.prune.target_latency=0.7"]  # fmt: skip
    macs, size = left_of("half-latency", settings, tmp_path)
    assert macs <= LEFT["half-latency"][0] and size <= LEFT["half-latency"][1]


@pytest.mark.slow
def test_without_data(digits_model, tmp_path):
    settings = [f"model={digits_model}", "weights=null", "data_arg.samples=32", "data_arg.steps=5",
                "steps.0.quantize.calibration_samples=32", "steps.0.quantize.max_drop=50%"]  # fmt: skip
    macs, size = left_of("data-free", settings, tmp_path)
    assert macs == LEFT["data-free"][0] and size <= LEFT["data-free"][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detector", "segmentation"])
def test_a_recipe_for_scenes(name, tmp_path, monkeypatch):
    pytest.importorskip("pycocotools" if name == "detector" else "torchmetrics")
    monkeypatch.chdir(REPOSITORY)
    settings = ["model_arg.width=8", "data_arg.train=24", "data_arg.test=8", "steps.0.train.epochs=1",
                "steps.1.prune.epochs=1", "steps.1.prune.reconstruct=inputs", "steps.2.quantize.calibration_samples=8",
                "steps.2.quantize.reconstruct=none"]  # fmt: skip
    macs, size = left_of(name, settings, tmp_path)
    assert macs <= LEFT[name][0] and size <= LEFT[name][1]


@pytest.mark.slow
def test_a_recipe_for_sounds(tmp_path, monkeypatch):
    write_sounds(tmp_path / "sounds", 80)
    monkeypatch.chdir(REPOSITORY)
    settings = [f"data=audio:{tmp_path / 'sounds'}", "steps.0.train.epochs=1", "steps.1.prune.epochs=1",
                "steps.2.quantize.max_drop=90%"]  # fmt: skip
    macs, size = left_of("audio", settings, tmp_path)
    assert macs <= LEFT["audio"][0] and size <= LEFT["audio"][1]


@pytest.mark.slow
def test_a_recipe_for_a_series(tmp_path, monkeypatch):
    write_series(tmp_path / "load.csv", 400)
    monkeypatch.chdir(REPOSITORY)
    settings = [f"data=csv:{tmp_path / 'load.csv'}", "steps.0.train.epochs=1", "steps.1.distill.epochs=1",
                "steps.2.quantize.max_drop=900%"]  # fmt: skip
    macs, size = left_of("forecaster", settings, tmp_path)
    assert macs <= LEFT["forecaster"][0] and size <= LEFT["forecaster"][1]


@pytest.mark.slow
def test_the_gate_is_shut_by_a_missed_guard(digits_model, tmp_path):
    settings = [f"model={digits_model}", "steps.0.train.epochs=0.1", "steps.0.train.lr=0.001",
                "steps.1.quantize.max_bytes=1%"]  # fmt: skip
    with pytest.raises(GuardMissed, match="bytes"):
        left_of("ci-guard", settings, tmp_path)
