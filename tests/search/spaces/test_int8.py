"""Int8 or float as a search: candidates against the step, predicted costs, the layers that a recipe names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compresskit.artifact.artifact import load
from compresskit.artifact.source import load_model
from compresskit.core.errors import GuardMissed
from compresskit.core.types import call
from compresskit.pipeline.recipe import read_recipe, validate
from compresskit.pipeline.runner import Run, run
from compresskit.quantization.layers.weights import bytes_by_kind
from compresskit.search.carrying_out import carry_out
from compresskit.search.options import SearchOptions
from compresskit.search.spaces.int8 import Int8Subject
from compresskit.search.spaces.quantize import QuantizeSubject, quantize_subject

pytest.importorskip("onnxruntime", reason="times are those of ONNX Runtime")


def options(**values):
    targets = {} if "target_bytes" in values else {"target_latency": 0.8}
    given = {"technique": "quantize", **targets, "samples": 64, "probe_samples": 64}
    return SearchOptions.model_validate({**given, **values})


@pytest.fixture(scope="module")
def wide(opened):
    """A model that is large enough to gain from int8, untrained: (loaded, context)."""
    return load_model("builtin:digits_cnn"), replace(opened[1], latency_batch=32)


@pytest.fixture(scope="module")
def subject(wide):
    return quantize_subject(wide[0], options(), wide[1])


def test_the_budget_decides_what_a_layer_chooses_from(wide, subject):
    assert isinstance(subject, Int8Subject)
    assert all(place.labels == ("int8", "float") for place in subject.places)
    assert isinstance(quantize_subject(wide[0], options(target_bytes=0.2), wide[1]), QuantizeSubject)


def test_a_candidate_is_what_the_step_makes(wide, subject):
    loaded, context = wide
    for choice in [(0,) * len(subject.places), (0, *(1,) * (len(subject.places) - 1))]:
        made = carry_out(subject.steps(choice), loaded.clone(), context).loaded
        assert torch.equal(call(subject.build(choice), loaded.example), call(made.module, loaded.example))
        stored = sum(bytes_by_kind(made.module).values())
        assert subject.costs(choice)["bytes"] == pytest.approx(stored, rel=0.01)


def test_all_in_float_is_the_model_itself(wide, subject):
    whole = tuple(len(place) - 1 for place in subject.places)
    assert subject.steps(whole) == [] and subject.costs(whole) == subject.whole_costs()
    torch.testing.assert_close(
        call(subject.build(whole), wide[0].example), call(wide[0].module, wide[0].example), rtol=1e-4, atol=1e-4
    )


def test_int8_saves_time_and_loses_something(subject):
    for number in range(len(subject.places)):
        choice = [len(place) - 1 for place in subject.places]
        choice[number] = 0
        assert 0 < subject.costs(tuple(choice))["latency"] < subject.whole_costs()["latency"]
        loss, none = subject.errors(number)
        assert loss > none == 0


@pytest.mark.integration
def test_a_search_is_timed_in_onnxruntime_and_its_recipe_replays(tmp_path):
    recipe = validate({
        "model": "builtin:digits_cnn", "data": "digits", "latency_rounds": 0, "latency_batch": 32,
        "steps": [{"search": {"technique": "quantize", "target_latency": 0.9, "policy": "haq", "trials": 3,
                              "samples": 64, "probe_samples": 64, "score_samples": 64}}],
    })  # fmt: skip
    found = tmp_path / "found"
    try:
        step = run(Run(recipe, found))["steps"][0]
    except GuardMissed as missed:  # where others share the machine, no choice may be fast enough
        found = Path(str(missed.artifact))
        step = json.loads((found / "report.json").read_text())
    assert step["notes"][0].startswith("measured latency is ") and 0 < step["facts"]["latency_kept"] < 1
    run(Run(read_recipe(found / "recipe.yaml"), tmp_path / "again"))
    first, second = (load(folder).module.state_dict() for folder in (found, tmp_path / "again"))
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)
