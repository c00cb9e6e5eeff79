"""Agents over places: bounds that always meet the budget, rewards, HAQ's rounding and decrement."""

from __future__ import annotations

import math

import numpy as np
import pytest

from compresskit.search.amc import amc, haq, highest_level, level_of, lowered, reward_of
from compresskit.search.options import SearchOptions
from compresskit.search.problem import Trial
from tests.search.toy import toy_problem


def options(policy, **values):
    return SearchOptions(budget={"macs": 0.6}, policy=policy, **values)


@pytest.mark.parametrize(("policy", "name"), [(amc, "amc"), (haq, "haq")])
def test_every_episode_is_within_the_budget(policy, name):
    problem = toy_problem(budget=0.5, trials=30)
    policy(problem, np.random.default_rng(0), options(name))
    assert 10 < len(problem.history) <= 30
    assert all(problem.fits(trial.choice) for trial in problem.history)


def test_amc_beats_uniform():
    problem = toy_problem(budget=0.6, trials=150, levels=9)
    choice = amc(problem, np.random.default_rng(0), options("amc"))
    plain = problem.fitted(np.ones(4))
    assert problem.subject.loss(choice) < problem.subject.loss(plain)


def test_highest_level_leaves_room_for_the_lowest_after_it():
    problem = toy_problem(budget=0.5)  # costs 1, 1, 2, 1 of 5; shares 0.2, 0.4 ... 1
    assert highest_level(problem, [0, 0, 0, 0], 0) == 4  # 1 + 0.2 + 0.4 + 0.2 <= 2.5
    assert highest_level(problem, [4, 0, 0, 0], 1) == 3  # 1 + 0.8 + 0.4 + 0.2 = 2.4
    assert highest_level(problem, [4, 3, 0, 0], 2) == 0  # nothing left but 0.1


def test_rewards():
    problem = toy_problem()
    trial = Trial(0, (0, 0, 0, 0), 0.9, 0.0, {}, 0.0, "amc")
    assert reward_of(trial, problem, "error") == pytest.approx(-0.1)
    problem.subject.costs = lambda choice: {"macs": 1e6, "params": 1e3}
    assert reward_of(trial, problem, "macs") == pytest.approx(-0.1 * math.log(1e6))
    assert reward_of(trial, problem, "params") == pytest.approx(-0.1 * math.log(1e3))


def test_actions_split_the_unit_interval_evenly():
    # HAQ: round((8 - 2 + 1) a + 2 - 0.5) bits for bits 2 to 8
    for action in np.linspace(0.001, 0.999, 50):
        assert level_of(action, 7) + 2 == min(max(math.floor(7 * action + 2 - 0.5 + 0.5), 2), 8)


def test_widths_are_lowered_from_the_last_layer_on():
    problem = toy_problem(budget=0.9)  # 4.5 of 5
    assert lowered(problem, [4, 4, 4, 4]) == [4, 4, 3, 3]
