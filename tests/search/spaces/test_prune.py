"""Pruning as a search: costs against the measured model, refit errors against regression, levels."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.analysis.measure import measure
from compresskit.core.types import call
from compresskit.search.carrying_out import carry_out
from compresskit.search.options import SearchOptions
from compresskit.search.problem.finalists import _untuned
from compresskit.search.spaces.prune import PruneSubject, _counts


def options(**values):
    return SearchOptions(target_macs=0.5, **values)


@pytest.fixture(scope="module")
def subject(opened):
    return PruneSubject(opened[0], options(samples=128), opened[1])


def test_levels_run_from_the_floor_to_the_whole():
    assert _counts(16, options(levels=4, min_keep_ratio=0.25), 5) == [4, 10, 15, 16]
    assert _counts(64, options(levels=3, min_keep_ratio=0.5, round_to=8), 5) == [32, 56, 64]
    assert _counts(1, options(), 5) == [1]


@pytest.mark.parametrize("seed", range(3))
def test_costs_are_those_of_the_built_model(subject, seed):
    generator = np.random.default_rng(seed)
    choice = tuple(int(generator.integers(len(place))) for place in subject.places)
    module = subject.build(choice)
    costs = subject.costs(choice)
    assert costs["macs"] == measure.macs(module, subject._loaded.example)
    assert costs["params"] == measure.parameter_count(module)
    stored = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    assert costs["bytes"] == pytest.approx(stored, abs=8 * 3)  # BatchNorm's counters are not touched by a run


def test_whole_choice_is_the_model_itself(subject):
    whole = tuple(len(place) - 1 for place in subject.places)
    assert subject.costs(whole) == subject.whole_costs()
    assert subject.steps(whole) == []
    assert all(subject.errors(n)[-1] == 0 for n in range(len(subject.places)))


def test_the_winner_is_refitted_layer_by_layer_and_lies_nearer_for_it(opened):
    loaded, context = opened
    batch = context.data.calibration(256, seed=1)[0]
    gaps = {}
    for refit in ("inputs", "sequential"):
        subject = PruneSubject(loaded, options(samples=256, refit=refit), context)
        steps = subject.steps((3,) * len(subject.places))
        assert steps[0]["prune"]["reconstruct"] == refit
        made = carry_out(steps, loaded.clone(), context).loaded
        gap = call(made.module, batch) - call(loaded.module, batch)
        gaps[refit] = float(gap.detach().square().mean())
    assert gaps["sequential"] < gaps["inputs"]


def test_the_winner_is_made_as_the_plain_step_makes_it_and_finalists_without_gradients(opened):
    loaded, context = opened
    subject = PruneSubject(loaded, options(), context)
    steps = subject.steps((3,) * len(subject.places))
    assert steps[0]["prune"]["reconstruct"] == "auto" and "samples" not in steps[0]["prune"]
    assert _untuned(steps) == [{"prune": steps[0]["prune"] | {"reconstruct": "sequential"}}]
    given = PruneSubject(loaded, options(samples=256, refit="inputs"), context)
    chosen = given.steps((3,) * len(given.places))
    assert chosen[0]["prune"]["samples"] == 256 and _untuned(chosen) == chosen


def test_fewer_units_leave_larger_errors(subject):
    for number in range(len(subject.places)):
        errors = subject.errors(number)
        assert errors == sorted(errors, reverse=True) and errors[0] > 0
