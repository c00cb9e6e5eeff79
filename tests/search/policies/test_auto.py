"""`auto`, exchanges, finalists, and the cheapest choice within a drop."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.core.errors import GuardMissed
from compresskit.search.options import SearchOptions
from compresskit.search.policies.auto import auto, exchange
from compresskit.search.policies.baselines import random
from compresskit.search.problem.finalists import cheapest_within
from tests.search.toy import best_possible, toy_problem

OPTIONS = SearchOptions(target_macs=0.6)


def test_auto_says_whose_choice_it_took():
    problem = toy_problem(budget=0.6, trials=60)
    choice = auto(problem, np.random.default_rng(0), OPTIONS)
    assert problem.subject.loss(choice) == pytest.approx(best_possible(problem))
    assert problem.notes[0].startswith("auto took the choice of ")
    assert "uniform reached" in problem.notes[0]


def test_exchange_keeps_to_the_budget_and_improves():
    problem = toy_problem(budget=0.6, trials=60)
    begin = problem.evaluate(problem.fitted(np.ones(4)))
    choice = exchange(problem, np.random.default_rng(0), OPTIONS)
    assert all(problem.fits(trial.choice) for trial in problem.history)
    assert problem.subject.loss(choice) < problem.subject.loss(begin.choice)


def test_limits_are_restored():
    problem = toy_problem(trials=10, seconds=100)
    with problem.limited(0.3):
        assert (problem.trials, problem.seconds) == (3, 30)
    assert (problem.trials, problem.seconds) == (10, 100)


def run(problem):
    choice = problem.fitted(np.ones(4))
    problem.evaluate(choice)
    return choice


def test_cheapest_choice_within_a_drop():
    problem = toy_problem(budget=1.0)
    choice = cheapest_within(problem, run, "macs", allowed=0.9)
    assert problem.evaluate(choice).score >= 0.9
    cheaper = toy_problem(budget=problem.subject.costs(choice)["macs"] / 5 - 1 / 2**5)
    assert cheaper.evaluate(run(cheaper)).score < 0.9
    assert problem.limits == problem.subject.costs(choice)


def test_a_drop_shares_trials_among_its_halvings_and_keeps_other_limits():
    problem = toy_problem(budget=0.7, trials=30)
    choice = cheapest_within(problem, lambda p: random(p, np.random.default_rng(0), OPTIONS), "macs", allowed=0.8)
    assert len(problem.history) <= 30 + 6
    assert problem.evaluate(choice).costs["macs"] <= 0.7
    cheaper = [t for t in problem.history if t.costs["macs"] < problem.evaluate(choice).costs["macs"] - 1e-9]
    assert cheaper and all(trial.score < 0.8 for trial in cheaper)


def test_an_impossible_drop_is_named():
    with pytest.raises(GuardMissed, match="keeps a score of 2.0000; allow a larger drop"):
        cheapest_within(toy_problem(budget=1.0), run, "macs", allowed=2.0)
