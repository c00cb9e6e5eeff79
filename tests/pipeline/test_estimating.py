"""Estimates of how long steps take, and how efforts are said and recorded."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from compresskit.artifact import artifact
from compresskit.core.effort import Passes
from compresskit.core.types import Loaded
from compresskit.pipeline.checks.preflight import checked_context
from compresskit.pipeline.estimating import Speed, estimated, measured_speed, said
from compresskit.pipeline.plan import make_plan
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run
from compresskit.training.context import Context


def recipe(**prune):
    return validate(
        {
            "model": "builtin:digits_cnn_small", "data": "digits", "latency_rounds": 0,
            "steps": [{"prune": {"ratio": 0.5, **prune}}],
        }
    )  # fmt: skip


def test_a_step_takes_what_its_passes_take():
    context = checked_context(recipe(), lambda line: None)
    speed = measured_speed(context.original, context)
    assert speed is not None and 0 < speed.forward <= speed.backward < 0.1
    assert all(parameter.grad is None for parameter in context.original.module.parameters())
    assert Speed(0.001, 0.003).of(Passes(1000, 100)) == 1.3
    more, less = (estimated(recipe(recover="finetune", epochs=epochs), context)[0]["seconds"] for epochs in (900, 90))
    assert more > less > 0


class OneAtATime(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        assert len(x) == 1
        return self.layer(x)


def test_a_model_that_takes_one_example_at_a_time_has_no_estimate():
    loaded = Loaded(OneAtATime(), source={}, name="one", example=torch.zeros(1, 3))
    assert measured_speed(loaded, Context(loaded)) is None


def test_a_line_says_the_effort_its_choices_and_how_long():
    record = {"place": "prune", "effort": "fast", "chosen": {"samples": 512, "iterations": 100.0}, "seconds": 200.0}
    assert said(record) == "prune: effort fast: samples 512, iterations 100; about 3 min"
    assert said({**record, "chosen": {}, "seconds": None}) == "prune: effort fast; length not known"


@pytest.mark.integration
def test_plan_report_and_artifact_say_the_effort(tmp_path):
    fast = recipe(effort="fast")
    plan = make_plan(fast)
    assert plan["efforts"][0]["chosen"]["samples"] == 512 and plan["plan"][1]["seconds"] > 0
    lines = []
    report = run(Run(fast, tmp_path / "out", log=lines.append))
    assert any(line.startswith("prune: effort fast: ") and "samples 512" in line for line in lines)
    assert report["steps"][0]["effort"]["effort"] == "fast" and report["steps"][0]["options"]["samples"] == 512
    manifest = json.loads((tmp_path / "out" / artifact.MANIFEST).read_text())
    assert manifest["provenance"]["effort"]["chosen"]["samples"] == 512
