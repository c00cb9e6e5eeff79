"""Doubts about a run are named before its work, and only where there is reason to."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import compresskit
from compresskit.core.errors import InputError
from compresskit.evaluation.metrics import make_metric
from compresskit.pipeline.checks.sanity import baseline_warnings, sanity_warnings
from compresskit.pipeline.opening import open_context
from compresskit.pipeline.recipe import from_content


def warned(step: str = "quantize", **content) -> list[str]:
    recipe = from_content({"model": "builtin:digits_cnn_small", "data": "digits", **content, "steps": [{step: {}}]})
    return sanity_warnings(recipe, open_context(recipe.options))


def test_random_weights_are_named_unless_they_are_trained_first():
    (line,) = warned()
    assert "weights of digits_cnn_small are random" in line and "--weights" in line
    assert warned("train") == []
    assert warned(model="builtin:digits_cnn_small", data=None) == warned()


@pytest.mark.integration
def test_trained_weights_and_a_users_own_code_are_not_doubted(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    assert warned(model=f"{tmp_path}/net.py:make") == []
    artifact = tmp_path / "artifact"
    compresskit.train("builtin:digits_cnn_small", data="digits", epochs=0.1).save(artifact)
    assert warned(model=str(artifact)) == []


def test_steps_that_do_nothing_good_to_a_quantized_model_are_named(tmp_path):
    compresskit.quantize("builtin:lenet5", latency_rounds=0).save(tmp_path / "int8")
    (line,) = [line for line in warned("decompose", model=str(tmp_path / "int8"), data=None) if "quantized" in line]
    assert "the model is quantized already" in line and "decompose before quantizing" in line
    assert warned("quantize", model=str(tmp_path / "int8"), data=None) == []


def arrays(path, examples=120, classes=10, scale=1.0, size=8):
    rng = np.random.default_rng(0)
    x = (rng.random((examples, 1, size, size)) * scale).astype(np.float32)
    y = np.arange(examples) % classes
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return f"npz:{path}"


def test_a_tiny_test_split_is_named(tmp_path):
    lines = warned("train", data=arrays(tmp_path / "few.npz", examples=40))
    assert [line for line in lines if "40 examples" in line and "2.5 points" in line]
    assert warned("train", data=arrays(tmp_path / "more.npz")) == []


def test_more_outputs_than_classes_are_named(tmp_path):
    (line,) = warned("train", data=arrays(tmp_path / "three.npz", classes=3))
    assert "10 outputs and the data 3 classes" in line and "num_classes=3" in line


def test_inputs_that_are_normalized_twice_are_named(tmp_path):
    data = arrays(tmp_path / "big.npz", scale=3.0)
    twice = {"mean": 0.5, "std": 0.2}
    (line,) = warned("train", data=data, data_arg=twice)
    assert "preprocess=none" in line and "inputs reach 12.5" in line
    assert warned("train", data=arrays(tmp_path / "unit.npz"), data_arg=twice) == []
    assert warned("train", data=data) == []  # nothing is applied to them


@pytest.mark.integration
def test_a_metric_at_chance_is_named(tmp_path):
    lines: list[str] = []
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    compresskit.quantize(net, data="digits", progress=lines.append, latency_rounds=0)
    assert [line for line in lines if "no better than chance among 10 classes (0.1000)" in line]
    at_chance = {"name": "top1", "value": 0.1, "low": 0.08, "high": 0.12}
    recipe = from_content({"model": "builtin:digits_cnn_small", "data": "digits", "steps": [{"train": {}}]})
    assert baseline_warnings(recipe, open_context(recipe.options), at_chance) == []  # what is trained next


def test_chance_is_that_of_the_metric(tmp_path):
    recipe = from_content({"model": "builtin:digits_cnn_small", "data": "digits", "steps": [{"quantize": {}}]})
    context = open_context(recipe.options)
    context.original.random_weights = False
    for name, low, high, doubted in (
        ("top5", 0.45, 0.55, True), ("top5", 0.55, 0.6, False), ("r2", -3.0, -1.0, True), ("r2", 0.1, 0.2, False),
        ("map", 0.0, 0.0, True), ("mse", 5.0, 6.0, False),
    ):  # fmt: skip
        judged = replace(context, metric=make_metric(name))
        lines = baseline_warnings(recipe, judged, {"name": name, "value": low, "low": low, "high": high})
        assert bool(lines) is doubted, (name, low)


def test_a_dry_run_says_what_a_run_doubts(invoke):
    code, out, _ = invoke("prune", "builtin:digits_cnn_small", "--ratio", "0.5", "--dry-run", "--json")
    assert code == 0
    assert any("weights of digits_cnn_small are random" in line for line in json.loads(out)["warnings"])


def test_a_model_with_random_weights_does_not_teach_itself():
    with pytest.raises(InputError, match="'digits_cnn_small' has random weights .* give a --teacher, --weights"):
        compresskit.distill("builtin:digits_cnn_small", data="digits", epochs=1)


@pytest.mark.integration
def test_a_teacher_at_chance_is_named(digits_model):
    def taught(teacher) -> list[str]:
        return compresskit.distill(
            "builtin:digits_cnn_small", teacher=teacher, data="digits", epochs=0.1, latency_rounds=0
        ).report["steps"][0]["notes"]

    noise = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    torch.nn.init.zeros_(noise[1].weight)
    (line,) = [line for line in taught(noise) if "no better than chance (0.1000): it teaches noise" in line]
    assert "teacher 'Sequential' scores top1" in line
    assert not [line for line in taught(str(digits_model)) if "chance" in line]


def test_a_teacher_with_random_weights_is_refused_before_work(tmp_path):
    with pytest.raises(InputError, match="teacher 'digits_cnn' has random weights .* --teacher-weights"):
        compresskit.distill(
            "builtin:digits_cnn_small", teacher="builtin:digits_cnn", data="digits", epochs=1, output=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
