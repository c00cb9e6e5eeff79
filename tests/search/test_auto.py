"""`auto`, exchanges, finalists, and the cheapest choice within a drop."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.core.errors import GuardMissed
from compresskit.search.auto import auto, exchange
from compresskit.search.finalists import cheapest_within
from compresskit.search.options import SearchOptions
from tests.search.toy import best_possible, toy_problem

OPTIONS = SearchOptions(budget={"macs": 0.6})


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
    return problem.fitted(np.ones(4))


def make(limits):
    return toy_problem(budget=limits["macs"] / 5)


def test_cheapest_choice_within_a_drop():
    problem, choice = cheapest_within(make, run, "macs", least=1.0, whole=5.0, allowed=0.9)
    assert problem.evaluate(choice).score >= 0.9
    cheaper = make({"macs": problem.subject.costs(choice)["macs"] - 5 / 2**5})
    assert cheaper.evaluate(run(cheaper)).score < 0.9


def test_an_impossible_drop_is_named():
    with pytest.raises(GuardMissed, match="keeps a score of 2.0000; allow a larger drop"):
        cheapest_within(make, run, "macs", least=1.0, whole=5.0, allowed=2.0)
