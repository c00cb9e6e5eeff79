"""Every policy on a problem whose best choice is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from compresskit.search.options import SearchOptions
from compresskit.search.simple import greedy, random, uniform
from compresskit.search.solve import loss_at, monotone, place_losses, solve
from tests.search.toy import best_possible, toy_problem

OPTIONS = SearchOptions(budget={"macs": 0.6})


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
    options = SearchOptions(budget={"macs": 0.6}, probe=probe)
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


def test_loss_follows_a_power_law_through_its_points():
    assert loss_at([(0.1, 0.01), (0.2, 0.04)], 0.4) == pytest.approx(0.16)
    assert loss_at([(0.1, 0.3)], 0.2) == pytest.approx(0.6)
    assert loss_at([(0.1, 0.3)], 0.0) == 0.0


def test_errors_never_grow_with_the_level():
    assert monotone([0.5, 0.6, 0.1, 0.2, 0.0]) == [0.6, 0.6, 0.2, 0.2, 0.0]


def test_greedy_stops_in_time():
    problem = toy_problem(budget=0.5, trials=10_000, seconds=1e-9)
    assert problem.fits(greedy(problem, rng(), OPTIONS))


def test_greedy_makes_several_cuts_a_round_where_few_trials_are_paid_for():
    problem = toy_problem(budget=0.6, trials=10)
    choice = greedy(problem, rng(), OPTIONS)
    assert problem.fits(choice) and len(problem.history) <= 11
    plain = problem.subject.loss(uniform(toy_problem(budget=0.6), rng(), OPTIONS))
    assert problem.subject.loss(choice) <= plain
