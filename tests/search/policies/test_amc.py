"""Agents over places: what they find within trials, time and budget."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from compresskit.search.options import SearchOptions
from compresskit.search.policies.amc import amc, haq
from tests.search.toy import toy_problem

pytestmark = pytest.mark.integration


def options(policy, **values):
    return SearchOptions(target_macs=0.6, policy=policy, **values)


@pytest.mark.parametrize(("policy", "name"), [(amc, "amc"), (haq, "haq")])
def test_every_episode_is_within_the_budget(policy, name):
    problem = toy_problem(budget=0.5, trials=30)
    policy(problem, np.random.default_rng(0), options(name))
    assert 10 < len(problem.history) <= 30
    assert all(problem.fits(trial.choice) for trial in problem.history)


@pytest.mark.parametrize(("policy", "name"), [(amc, "amc"), (haq, "haq")])
def test_the_first_episode_is_uniform_so_nothing_worse_wins(policy, name):
    problem = toy_problem(budget=0.5, trials=3)
    uniform = problem.fitted(np.ones(4))
    choice = policy(problem, np.random.default_rng(0), options(name))
    assert [trial.choice == uniform for trial in problem.history] == [True, False, False]
    assert problem.subject.loss(choice) <= problem.subject.loss(uniform)


def test_amc_beats_uniform():
    problem = toy_problem(budget=0.6, trials=150, levels=9)
    choice = amc(problem, np.random.default_rng(0), options("amc"))
    plain = problem.fitted(np.ones(4))
    assert problem.subject.loss(choice) < problem.subject.loss(plain)


@pytest.mark.parametrize(("policy", "name"), [(amc, "amc"), (haq, "haq")])
def test_a_seed_gives_the_same_trials(policy, name):
    found = []
    for _ in range(2):
        problem = toy_problem(budget=0.5, trials=40)
        policy(problem, np.random.default_rng(3), options(name))
        found.append([trial.choice for trial in problem.history])
        torch.rand(1), random.random(), np.random.random()
    assert found[0] == found[1]


def test_the_process_keeps_its_random_states():
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    before = torch.rand(1).item(), random.random(), np.random.random()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    amc(toy_problem(trials=10), np.random.default_rng(0), options("amc"))
    assert (torch.rand(1).item(), random.random(), np.random.random()) == before


def test_time_ends_a_search():
    clock = iter(range(10_000))
    problem = toy_problem(trials=1000, seconds=200, clock=lambda: float(next(clock)))
    amc(problem, np.random.default_rng(0), options("amc"))
    assert 1 < len(problem.history) < 200
    assert problem.out_of_time()
