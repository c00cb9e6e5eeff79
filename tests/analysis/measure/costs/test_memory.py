"""Budgets of peak memory: cuts are measured until one fits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.work import figure_of
from compresskit.core.types import Loaded
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return Loaded(nn.Sequential(*layers, nn.Conv2d(64, 4, 1)).eval(), {}, torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize("target", [0.6, "500KB"])
def test_a_cut_takes_the_memory_that_is_asked_for(target):
    loaded = net()
    whole = figure_of("memory", loaded)
    facts = prune(loaded, PruneOptions(target_memory=target, round_to=1), Context(loaded.clone())).facts
    share = 0.6 if target == 0.6 else 500_000 / whole
    assert facts["memory_kept"] == pytest.approx(figure_of("memory", loaded) / whole)
    assert 0.5 * share < facts["memory_kept"] <= share and facts["memory_cuts_measured"] <= 6


def test_a_search_meets_a_budget_of_memory_and_a_guard_holds_it(tmp_path, digits_model):
    own = {"target_memory": 0.7, "policy": "uniform", "max_memory": "75%"}
    recipe = validate({
        "model": str(digits_model), "data": "digits", "latency_rounds": 0,
        "steps": [{"search": {**own, "samples": 64, "probe_samples": 64, "score_samples": 64}}],
    })  # fmt: skip
    report = run(Run(recipe, tmp_path / "out"))
    facts = report["steps"][0]["facts"]
    assert facts["memory_kept"] <= 0.7 and facts["memory_over_budget"] == 0
    measured = report["steps"][0]["measurement"]["peak_memory_bytes"]
    assert measured == pytest.approx(facts["memory_bytes"], rel=0.05)
    assert measured <= 0.75 * report["original"]["peak_memory_bytes"]
