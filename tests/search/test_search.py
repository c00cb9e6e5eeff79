"""The search step on a trained digits model, end to end."""

from __future__ import annotations

import pytest
import torch
import yaml

from compresskit.artifact.artifact import load
from compresskit.pipeline.recipe import read_recipe, validate
from compresskit.pipeline.runner import Run, run


def search_recipe(model, **options):
    targets = {} if "target_drop" in options else {"target_macs": 0.4}
    steps = [{"search": {**targets, "trials": 6, "samples": 128, **options}}]
    return validate({"model": str(model), "data": "digits", "latency_rounds": 0, "steps": steps})


@pytest.mark.parametrize("policy", ["random", "amc", "auto"])
def test_budget_is_met_exactly_and_the_recipe_replays_it(digits_model, tmp_path, policy):
    report = run(Run(search_recipe(digits_model, policy=policy), tmp_path / "found"))
    facts = report["steps"][0]["facts"]
    measured = report["steps"][0]["measurement"]
    assert facts["macs_kept"] <= 0.4 + 1e-9
    assert facts["macs_kept"] > 0.39 or policy != "auto"  # what is left of the budget is given out
    assert measured["macs"] == pytest.approx(facts["macs_kept"] * report["original"]["macs"], rel=1e-6)
    recipe = tmp_path / "found" / "recipe.yaml"
    assert list(yaml.safe_load(recipe.read_text())["steps"][0]) == ["prune"]
    run(Run(read_recipe(recipe), tmp_path / "again"))
    first, second = (load(tmp_path / name).module.state_dict() for name in ("found", "again"))
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_held_out_split_scores_and_test_split_is_not_read(digits_model, tmp_path, monkeypatch):
    from compresskit.artifact.source import load_model
    from compresskit.data.dataset import open_data
    from compresskit.evaluation.metrics import make_metric
    from compresskit.search.options import SearchOptions
    from compresskit.search.search import open_problem
    from compresskit.training.context import Context

    loaded = load_model(str(digits_model))
    data = open_data("digits", loaded.preprocessing)
    asked = []
    whole = data.batches
    monkeypatch.setattr(data, "batches", lambda split, **kw: asked.append(split) or whole(split, **kw))
    problem = open_problem(
        loaded, SearchOptions(target_macs=0.5, samples=64), Context(loaded, data, make_metric("top1"))
    )
    problem.evaluate(problem.smallest())
    assert set(asked) == {"val", "train"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing says how small"),
        ({"budget": {"macs": 0.5}}, "budget is now one option a cost: target_macs, .* or target_drop"),
        ({"target_latency": "2ms", "technique": "quantize", "bits": [4]}, "bits and formats would be ignored: under"),
        ({"target_macs": 1.5}, "macs is the share that is kept"),
        ({"target_macs": -1}, "must be above 0"),
        ({"target_macs": 0.5, "finetune_steps": 3}, "finetune_steps would be ignored"),
        ({"target_macs": 0.5, "kind": "cp"}, "kind would be ignored: technique is .prune.; it is for decompose"),
        ({"target_macs": 0.5, "policy": "solv"}, "did you mean 'solve'"),
    ],
)
def test_refusals(options, message):
    from pydantic import ValidationError

    from compresskit.search.options import SearchOptions

    with pytest.raises(ValidationError, match=message):
        SearchOptions.model_validate(options)


def test_search_without_data_is_refused(invoke, digits_model):
    code, _, error = invoke("search", digits_model, "--target-macs", "0.5", "-o", "out")
    assert code == 2 and "search scores candidates on data" in error


def test_cheapest_model_within_a_drop(digits_model, tmp_path):
    recipe = search_recipe(digits_model, target_drop=0.05, policy="uniform")
    report = run(Run(recipe, tmp_path / "found"))
    step = report["steps"][0]
    assert step["facts"]["macs_kept"] < 0.6
    assert any("within the drop of 0.05" in note for note in step["notes"])


@pytest.mark.parametrize(("technique", "policy"), [("quantize", "evolution"), ("mixed", "uniform")])
def test_within_a_drop_bytes_are_made_small_where_bits_are_decided(digits_model, tmp_path, technique, policy):
    recipe = search_recipe(
        digits_model, technique=technique, policy=policy, target_drop=0.05, trials=6, samples=64, probe_samples=64
    )
    step = run(Run(recipe, tmp_path / "found"))["steps"][0]
    assert step["facts"]["bytes_kept"] < 0.25 and step["measurement"]["metric"]["value"] > 0.85
    assert any("within the drop of 0.05" in note for note in step["notes"])


def test_finalists_are_trained_and_one_is_chosen(digits_model, tmp_path):
    recipe = search_recipe(digits_model, policy="random", finetune_finalists=2, finetune_steps=3)
    report = run(Run(recipe, tmp_path / "found"))
    assert any("2 finalists were trained for 3 steps" in note for note in report["steps"][0]["notes"])


def test_plots_are_drawn(digits_model, tmp_path):
    pytest.importorskip("matplotlib")
    run(Run(search_recipe(digits_model, policy="random", trials=3), tmp_path / "found"))
    assert (tmp_path / "found" / "search.png").stat().st_size > 10_000
