"""Ranks as a search: costs against the built model, candidates against the step, errors against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.analysis.measure import measure
from compresskit.artifact.artifact import load
from compresskit.core.types import Loaded, call
from compresskit.pipeline.recipe import read_recipe, validate
from compresskit.pipeline.runner import Run, run
from compresskit.search.carrying_out import carry_out
from compresskit.search.options import SearchOptions
from compresskit.search.spaces.decompose import DecomposeSubject, rank_at
from compresskit.training.context import Context


def options(**values):
    given = {
        **({} if "target_latency" in values else {"target_macs": 0.5}),
        "technique": "decompose",
        "samples": 64,
        "probe_samples": 64,
        "refit": "inputs",
        **values,
    }
    return SearchOptions.model_validate(given)


@pytest.fixture(scope="module")
def subject(opened):
    return DecomposeSubject(opened[0], options(recalibration_samples=64), opened[1])


def some_choice(subject, seed):
    generator = np.random.default_rng(seed)
    return tuple(int(generator.integers(len(place))) for place in subject.places)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["channel-svd", "spatial-svd", "tucker2"])
def test_costs_are_those_of_the_built_model(opened, subject, kind, seed):
    loaded, context = opened
    subject = subject if kind == "channel-svd" else DecomposeSubject(loaded, options(kind=kind, levels=3), context)
    choice = some_choice(subject, seed)
    module, costs = subject.build(choice), subject.costs(choice)
    assert costs["macs"] == measure.macs(module, loaded.example)
    assert costs["params"] == measure.parameter_count(module)
    assert costs["bytes"] == sum(t.numel() * t.element_size() for t in module.state_dict().values())


def test_a_candidate_is_what_the_step_makes(opened, subject):
    loaded, context = opened
    choice = some_choice(subject, 1)
    made = carry_out(subject.steps(choice), loaded.clone(), context).loaded
    assert torch.allclose(call(subject.build(choice), loaded.example), call(made.module, loaded.example), atol=1e-5)


def test_a_bias_that_the_fit_adds_is_counted(opened):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 48, bias=False), nn.ReLU(), nn.Linear(48, 10)).eval()
    loaded = Loaded(module, {}, torch.randn(1, 1, 8, 8))
    subject = DecomposeSubject(loaded, options(), Context(loaded, opened[1].data, opened[1].metric))
    smallest = (0,) * len(subject.places)
    assert subject.costs(smallest)["params"] == measure.parameter_count(subject.build(smallest))
    made = carry_out(subject.steps(smallest), loaded.clone(), opened[1]).loaded
    assert made.module[1][1].bias is not None


def test_lower_ranks_cost_less_and_err_more(subject):
    for number, place in enumerate(subject.places):
        errors = subject.errors(number)
        assert errors == sorted(errors, reverse=True) and errors[-1] == 0 < errors[0]
        assert list(place.shares) == sorted(place.shares) and place.shares[-1] == 1


def test_the_predicted_divergence_is_near_the_measured_one_for_small_errors(opened, subject):
    place = 0
    level = len(subject.places[place]) - 2
    choice = [len(p) - 1 for p in subject.places]
    choice[place] = level
    batch = opened[1].data.calibration(64, seed=0)[0]
    wanted, got = (call(m, batch).log_softmax(1) for m in (opened[0].module, subject.build(choice)))
    measured = torch.nn.functional.kl_div(got, wanted, log_target=True, reduction="batchmean").item()
    assert measured / 5 < subject.errors(place)[level] < measured * 5


def test_the_rank_at_a_share_is_the_largest_within_it(opened, subject):
    site = subject.sites[-2]
    rank = rank_at(site, options(), 0.5)
    out, columns = site.geometry.out_channels, site.geometry.in_channels * site.geometry.taps
    assert rank * (columns + out) <= 0.5 * out * columns < (rank + 1) * (columns + out)


def test_under_a_latency_budget_every_level_saves_measured_time(opened):
    loaded = Loaded(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 768), nn.ReLU(), nn.Linear(768, 768)), {}, torch.randn(1, 64)
    )
    data = opened[1].data
    subject = DecomposeSubject(loaded, options(target_latency=0.7), Context(loaded, data, opened[1].metric))
    assert any(place.name == "3" for place in subject.places)
    whole = tuple(len(place) - 1 for place in subject.places)
    assert subject.costs(whole) == subject.whole_costs() and subject.whole_costs()["latency"] > 0
    for number, place in enumerate(subject.places):
        times = []
        for level in range(len(place)):
            choice = (*whole[:number], level, *whole[number + 1 :])
            times.append(subject.costs(choice)["latency"])
        assert times == sorted(times) and times[-2] < times[-1]
        shares = subject.latency_shares(place.name)
        assert shares == sorted(shares) and shares[0] > 0 and shares[-1] < 1


@pytest.mark.parametrize("policy", ["uniform", "solve"])
def test_ranks_are_found_within_the_budget_and_replayed(digits_model, tmp_path, policy):
    recipe = validate({
        "model": str(digits_model), "data": "digits", "latency_rounds": 0,
        "steps": [{"search": {"technique": "decompose", "target_macs": 0.6, "policy": policy, "trials": 6,
                              "samples": 64, "probe_samples": 64}}],
    })  # fmt: skip
    report = run(Run(recipe, tmp_path / "found"))
    facts, measured = report["steps"][0]["facts"], report["steps"][0]["measurement"]
    assert 0.59 < facts["macs_kept"] <= 0.6
    assert measured["macs"] == pytest.approx(facts["macs_kept"] * report["original"]["macs"], rel=1e-9)
    run(Run(read_recipe(tmp_path / "found" / "recipe.yaml"), tmp_path / "again"))
    first, second = (load(tmp_path / name).module.state_dict() for name in ("found", "again"))
    assert list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)
