"""Every policy on a problem whose best choice is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compresskit.search.options import SearchOptions
from compresskit.search.policies.baselines import greedy, random, uniform
from compresskit.search.policies.solve import monotone, place_losses, solve
from tests.search.toy import best_possible, toy_problem

OPTIONS = SearchOptions(target_macs=0.6)


def rng():
    return np.random.default_rng(0)


def test_uniform_takes_one_share_everywhere():
    problem = toy_problem(budget=0.6)
    assert uniform(problem, rng(), OPTIONS) == (2, 2, 2, 2)


@pytest.mark.parametrize("policy", [random, greedy, solve])
def test_policies_meet_the_budget_and_beat_uniform(policy):
    problem = toy_problem(budget=0.6, trials=60)
    choice = policy(problem, rng(), OPTIONS)
    plain = problem.subject.loss(uniform(toy_problem(budget=0.6), rng(), OPTIONS))
    assert problem.fits(choice)
    assert problem.subject.loss(choice) < plain


def test_random_repeats_with_its_seed():
    first, second = (random(toy_problem(trials=20), np.random.default_rng(3), OPTIONS) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("probe", ["estimate", "measure"])
def test_solve_is_optimal_where_places_are_independent(probe):
    problem = toy_problem(budget=0.6)
    options = SearchOptions(target_macs=0.6, probe=probe)
    assert problem.subject.loss(solve(problem, rng(), options)) == pytest.approx(best_possible(problem))


def test_probing_measures_each_place_alone():
    problem = toy_problem()
    losses = place_losses(problem, "measure")
    for weight, row in zip(problem.subject.weights, losses, strict=True):
        shares = np.array(problem.places[0].shares)
        assert row == pytest.approx(list(weight * (1 - shares) ** 2), abs=1e-6)


def test_a_place_that_several_layers_read_is_measured_once_where_others_are_estimated():
    problem = toy_problem()
    subject = problem.subject
    problem.places[1] = replace(problem.places[1], readers=3)
    true, guess = subject.errors(1), subject.errors
    subject.errors = lambda place: [error / 7 for error in guess(place)]
    subject.loss, plain = (lambda choice: plain(choice) + 0.5), subject.loss  # building alone changes something
    losses = place_losses(problem, "estimate")
    assert losses[1] == pytest.approx(true)
    assert losses[0] == pytest.approx([error / 7 for error in guess(0)])


def test_a_loss_that_one_run_does_not_show_is_still_estimated():
    problem = toy_problem()
    problem.places[1] = replace(problem.places[1], readers=3)
    problem.subject.loss = lambda choice: 0.0
    assert place_losses(problem, "estimate")[1] == pytest.approx(problem.subject.errors(1))


def test_errors_never_grow_with_the_level():
    assert monotone([0.5, 0.6, 0.1, 0.2, 0.0]) == [0.6, 0.6, 0.2, 0.2, 0.0]


def test_greedy_stops_in_time():
    problem = toy_problem(budget=0.5, trials=10_000, seconds=1e-9)
    assert problem.fits(greedy(problem, rng(), OPTIONS))


def many_places(**options):
    weights, sizes = np.random.default_rng(1).exponential(size=20), np.random.default_rng(2).uniform(0.5, 2, 20)
    return toy_problem(budget=0.5, weights=tuple(weights), sizes=tuple(sizes), levels=17, **options)


def test_greedy_beats_uniform_by_far_with_two_trials_a_place():
    problem = many_places(trials=40)
    choice = greedy(problem, rng(), OPTIONS)
    assert problem.fits(choice) and len(problem.history) <= 40
    assert problem.subject.loss(choice) < 0.7 * problem.subject.loss(uniform(many_places(), rng(), OPTIONS))


@pytest.mark.integration
def test_greedy_is_near_the_best_allocation_with_many_trials():
    problem, exact = many_places(trials=1000), many_places()
    assert problem.subject.loss(greedy(problem, rng(), OPTIONS)) < 1.05 * problem.subject.loss(
        solve(exact, rng(), OPTIONS)
    )
    assert len(problem.history) < 20 * 20  # a trial of every place for every cut would take thousands


@pytest.mark.parametrize("trials", [1, 2, 3, 10, 21])
def test_greedy_with_few_trials_is_never_below_uniform(trials):
    problem = many_places(trials=trials)
    choice = greedy(problem, rng(), OPTIONS)
    assert problem.fits(choice) and len(problem.history) <= max(trials, 3)
    assert problem.subject.loss(choice) <= problem.subject.loss(uniform(many_places(), rng(), OPTIONS))
