"""Channels, ranks and bits together: costs against the built model, candidates against the steps, replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compresskit.analysis.measure import measure
from compresskit.artifact.artifact import load
from compresskit.artifact.source import load_model
from compresskit.core.types import call
from compresskit.pipeline.recipe import read_recipe, validate
from compresskit.pipeline.runner import Run, run
from compresskit.quantization.layers.weights import bytes_by_kind
from compresskit.search.carrying_out import carry_out
from compresskit.search.options import SearchOptions
from compresskit.search.spaces.mixed import MixedSubject


def options(**values):
    targets = {} if any(name.startswith("target_") for name in values) else {"target_macs": 0.6, "target_bytes": 0.12}
    given = {"technique": "mixed", **targets, "samples": 64, "probe_samples": 64}
    return SearchOptions.model_validate(
        {**given, "recalibration_samples": 64, "levels": 4, "refit": "inputs", **values}
    )


@pytest.fixture(scope="module")
def subject(opened):
    return MixedSubject(opened[0], options(), opened[1])


def some_choice(subject, seed):
    generator = np.random.default_rng(seed)
    return tuple(int(generator.integers(len(place))) for place in subject.places)


def check_costs(subject, loaded, context, choice):
    made = carry_out(subject.steps(choice), loaded.clone(), context).loaded
    for module in (subject.build(choice), made.module):
        costs = subject.costs(choice)
        assert costs["macs"] == measure.macs(module, loaded.example)
        assert costs["params"] == measure.parameter_count(module)
        assert costs["bytes"] == pytest.approx(sum(bytes_by_kind(module).values()), rel=0.02)
    return made


@pytest.mark.parametrize("seed", range(4))
def test_costs_are_those_of_the_built_model_and_of_the_steps(opened, subject, seed):
    loaded, context = opened
    check_costs(subject, loaded, context, some_choice(subject, seed))


def test_without_bits_costs_are_exact(opened):
    loaded, context = opened
    subject = MixedSubject(loaded, options(target_macs=0.6), context)
    assert not any(place.name.startswith("bits") for place in subject.places)
    choice = some_choice(subject, 5)
    made = check_costs(subject, loaded, context, choice)
    assert subject.costs(choice)["bytes"] == sum(bytes_by_kind(made.module).values())


def test_places_have_all_three_parts(subject):
    assert {place.name.partition(" of ")[0] for place in subject.places} == {"channels", "rank", "bits"}
    assert subject.costs(tuple(len(place) - 1 for place in subject.places))["macs"] == subject.whole_costs()["macs"]


def levels(subject, **parts):
    """Whole everywhere, but for one level of each named part."""
    found = []
    for place in subject.places:
        level = parts.get(place.name.partition(" of ")[0])
        found.append(len(place) - 1 if level is None else level)
    return tuple(found)


@pytest.mark.parametrize("parts", [{"channels": 1, "bits": 3}, {"rank": 1, "bits": 2}, {"bits": 1}])
def test_a_candidate_is_what_the_steps_make(opened, subject, parts):
    loaded, context = opened
    choice = levels(subject, **parts)
    made = carry_out(subject.steps(choice), loaded.clone(), context).loaded
    assert torch.allclose(call(subject.build(choice), loaded.example), call(made.module, loaded.example), atol=1e-4)


def test_factors_of_a_cut_model_are_near_those_of_the_steps(opened, subject):
    """The candidate fits them from the whole model's moments, the step from the cut model's."""
    loaded, context = opened
    choice = levels(subject, channels=2, rank=2)
    made = carry_out(subject.steps(choice), loaded.clone(), context).loaded
    batch = context.data.calibration(256, seed=1)[0]
    agreement = (call(subject.build(choice), batch).argmax(1) == call(made.module, batch).argmax(1)).double().mean()
    assert agreement > 0.95


def test_losses_are_those_of_the_parts(subject):
    for number, place in enumerate(subject.places):
        errors = subject.errors(number)
        assert len(errors) == len(place) and errors[0] == max(errors) > errors[-1] >= 0


def test_factors_save_their_share_of_a_cut_layers_time(opened):
    loaded, context = load_model("builtin:digits_cnn"), replace(opened[1], latency_batch=32)
    subject = MixedSubject(loaded, options(target_latency=0.6), context)
    whole = tuple(len(place) - 1 for place in subject.places)
    assert subject.costs(whole)["latency"] == pytest.approx(subject.whole_costs()["latency"])
    for choice in (levels(subject, rank=0), levels(subject, channels=1), levels(subject, channels=1, rank=0)):
        assert 0 < subject.costs(choice)["latency"] < subject.whole_costs()["latency"]
    both, cut = levels(subject, channels=1, rank=0), levels(subject, channels=1)
    assert subject.costs(both)["latency"] <= subject.costs(cut)["latency"]


@pytest.mark.parametrize("policy", ["solve", "evolution", "amc"])
def test_both_budgets_are_met_and_the_recipe_replays_it(digits_model, tmp_path, policy):
    recipe = validate({
        "model": str(digits_model), "data": "digits", "latency_rounds": 0,
        "steps": [{"search": {"technique": "mixed", "target_macs": 0.5, "target_bytes": 0.1, "policy": policy,
                              "trials": 5, "samples": 64, "probe_samples": 64, "levels": 5}}],
    })  # fmt: skip
    report = run(Run(recipe, tmp_path / "found"))
    step = report["steps"][0]
    assert step["facts"]["macs_kept"] <= 0.5 and step["measurement"]["macs"] <= 0.5 * report["original"]["macs"]
    stored, whole = (sum(bytes_by_kind(load(path).module).values()) for path in (tmp_path / "found", digits_model))
    assert stored <= 0.1 * whole
    run(Run(read_recipe(tmp_path / "found" / "recipe.yaml"), tmp_path / "again"))
    first, second = (load(tmp_path / name).module.state_dict() for name in ("found", "again"))
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_macs": 0.5, "mix": ["ratio", "bits"]}, "bits would not count: the budget bounds no bytes"),
        ({"target_macs": 0.5, "bits": [4]}, "bits would not count"),
        ({"mix": ["rank", "bits"], "criterion": "l2"}, "criterion would be ignored: mix has no ratio"),
        ({"mix": []}, "at least 1 item"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(ValueError, match=message):
        options(**values)
    with pytest.raises(ValueError, match="mix would be ignored: technique is 'prune'"):
        SearchOptions.model_validate({"target_macs": 0.5, "mix": ["ratio"]})
