"""Choices, budgets, remembered scores, the Pareto front."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.core.errors import GuardMissed, InputError
from compresskit.search.problem.search_space import Problem
from tests.search.toy import ToyRater, ToySubject, toy_problem


def test_load_is_the_cost_relative_to_the_limit():
    problem = toy_problem(budget=0.5)
    assert problem.load(problem.largest()) == pytest.approx(2)
    assert problem.load(problem.smallest()) == pytest.approx(0.4)


def test_fitted_is_within_the_budget_and_leaves_no_step_unused():
    problem = toy_problem(budget=0.55)
    choice = problem.fitted(np.ones(4))
    assert problem.fits(choice)
    for place in range(4):
        raised = tuple(level + (n == place) for n, level in enumerate(choice))
        assert raised[place] == len(problem.places[place]) or not problem.fits(raised)


def test_fitted_follows_the_shares():
    problem = toy_problem(budget=0.5)
    choice = problem.fitted([1.0, 0.3, 0.3, 0.3])
    assert choice[0] == max(choice)


def test_the_same_choice_is_built_once():
    problem = toy_problem()
    first, second = problem.evaluate((1, 2, 3, 4)), problem.evaluate([1, 2, 3, 4])
    assert first is second and problem.subject.built == 1 and len(problem.history) == 1


def test_best_is_within_the_budget():
    problem = toy_problem(budget=0.5)
    problem.evaluate(problem.largest())
    assert problem.best() is None
    problem.evaluate((1, 1, 1, 1))
    assert problem.best().choice == (1, 1, 1, 1)


def test_pareto_front_has_no_beaten_trial():
    problem = toy_problem()
    for choice in [(0, 0, 0, 0), (4, 4, 4, 4), (0, 4, 0, 0), (4, 0, 4, 0), (2, 2, 2, 2)]:
        problem.evaluate(choice)
    front = problem.pareto()
    for trial in problem.history:
        beaten = any(
            problem.load(o.choice) <= problem.load(trial.choice) and o.score >= trial.score
            for o in problem.history if o is not trial
        )  # fmt: skip
        assert (trial in front) == (not beaten)
    assert [t.number for t in front] == sorted((t.number for t in front), key=lambda n: problem.history[n].score)


def test_ratings_outlive_a_kill(tmp_path):
    first = toy_problem(folder=tmp_path)
    first.evaluate((1, 2, 3, 4))
    first.probe(0, 1)
    with (tmp_path / "ratings.jsonl").open("a") as file:
        file.write('{"choice": [0, 0')  # a line that a kill cut short
    second = toy_problem(folder=tmp_path)
    assert second.evaluate((1, 2, 3, 4)).score == first.history[0].score
    assert second.probe(0, 1) == first.probe(0, 1)
    assert second.subject.built == 0


def test_an_unreachable_budget_names_what_can_be_reached():
    with pytest.raises(GuardMissed, match=r"macs cannot come down to 0\.5 here: the smallest choice leaves 1"):
        toy_problem(budget=0.1)


def test_a_cost_that_does_not_apply_is_refused():
    subject = ToySubject()
    with pytest.raises(InputError, match="budget: bits does not apply here; choose from macs"):
        Problem(subject, {"bits": 1.0}, ToyRater(subject), trials=1)
