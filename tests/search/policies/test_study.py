"""optuna's samplers: they beat uniform, a killed study goes on alike, and two processes share one."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run
from compresskit.search.options import SearchOptions
from compresskit.search.policies.baselines import uniform
from tests.search.toy import toy_problem

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _optuna():
    pytest.importorskip("optuna")


def policy_of(name):
    from compresskit.search.policies import samplers

    return getattr(samplers, name)


@pytest.mark.parametrize("name", ["evolution", "tpe"])
def test_samplers_beat_uniform(name):
    options = SearchOptions(target_macs=0.6, policy=name)
    problem = toy_problem(budget=0.6, trials=80)
    choice = policy_of(name)(problem, np.random.default_rng(0), options)
    plain = toy_problem(budget=0.6)
    assert problem.fits(choice)
    assert problem.subject.loss(choice) < plain.subject.loss(uniform(plain, np.random.default_rng(0), options))


def test_a_study_goes_on_where_it_stopped(tmp_path):
    options = SearchOptions(target_macs=0.6, policy="tpe")
    policy_of("tpe")(toy_problem(trials=6, folder=tmp_path), np.random.default_rng(0), options)
    later = toy_problem(trials=10, folder=tmp_path)
    policy_of("tpe")(later, np.random.default_rng(0), options)
    assert len(later.history) == 10
    assert later.subject.built == 4


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("name", ["evolution", "tpe"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_search_draws_as_one_that_was_not(name, moment, tmp_path):
    options = SearchOptions(target_macs=0.6, policy=name)
    killed, whole = toy_problem(trials=12, folder=tmp_path / "killed"), toy_problem(trials=12)
    rate = killed.rater.rate

    def until_killed(module):
        rating = rate(module) if moment == "after" else None
        if killed.subject.built == 8:
            raise Killed
        return rating or rate(module)

    killed.rater.rate = until_killed
    with pytest.raises(Killed):
        policy_of(name)(killed, np.random.default_rng(0), options)
    resumed = toy_problem(trials=12, folder=tmp_path / "killed")
    choices = [policy_of(name)(problem, np.random.default_rng(0), options) for problem in (resumed, whole)]
    assert choices[0] == choices[1]
    assert [trial.choice for trial in resumed.history] == [trial.choice for trial in whole.history]
    assert resumed.subject.built == 12 - 7


def test_searches_on_one_storage_learn_from_each_other(tmp_path):
    options = SearchOptions(target_macs=0.6, policy="evolution", storage=f"sqlite:///{tmp_path / 'common.db'}")
    first, second = toy_problem(trials=8), toy_problem(trials=14)
    policy_of("evolution")(first, np.random.default_rng(0), options)
    choice = policy_of("evolution")(second, np.random.default_rng(1), options)
    assert [trial.choice for trial in second.history[:8]] == [trial.choice for trial in first.history]
    assert second.subject.loss(choice) == min(second.subject.loss(trial.choice) for trial in second.history)
    assert second.subject.built == 6


def test_another_search_does_not_join_by_accident(tmp_path):
    def join(budget, name="search", policy="tpe"):
        storage = f"sqlite:///{tmp_path / 'common.db'}"
        options = SearchOptions(target_macs=budget, policy=policy, storage=storage, study=name)
        policy_of(policy)(toy_problem(budget, trials=2), np.random.default_rng(0), options)

    join(0.6)
    for other in ({"budget": 0.5}, {"budget": 0.6, "policy": "evolution"}):
        with pytest.raises(InputError, match="study 'search' in sqlite:.* belongs to a search with another policy"):
            join(**other)
    join(0.5, name="second")


def test_each_budget_of_a_drop_has_its_own_study(tmp_path):
    options = SearchOptions(target_drop=0.1, policy="tpe")
    for budget in (0.6, 0.5):
        problem = toy_problem(budget, trials=3, folder=tmp_path)
        policy_of("tpe")(problem, np.random.default_rng(0), options)
        assert len(problem.history) == 3 and all(map(problem.fits, (trial.choice for trial in problem.history)))


def test_a_storage_that_does_not_open_is_named(tmp_path):
    options = SearchOptions(target_macs=0.6, policy="tpe", storage=f"sqlite:///{tmp_path}/missing/study.db")
    with pytest.raises(InputError, match="storage 'sqlite:.*missing/study.db' does not open: .*unable to open"):
        policy_of("tpe")(toy_problem(trials=2), np.random.default_rng(0), options)


@pytest.mark.slow
def test_two_processes_search_together(digits_model, tmp_path):
    """Both end well; no candidate is scored twice; the best is at least as good as what one finds alone."""
    storage = f"sqlite:///{tmp_path / 'common.db'}"
    common = ["--data", "digits", "--policy", "evolution", "--target-macs", "0.4", "--samples", "128",
              "--latency-rounds", "0", "--json", "--storage", storage, "--trials", "14", "--levels", "24"]  # fmt: skip

    def search(name):
        command = [
            sys.executable,
            "-m",
            "compresskit",
            "search",
            str(digits_model),
            *common,
            "-o",
            str(tmp_path / name),
        ]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    both = [search(name) for name in ("one", "two")]
    ends = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], [err.splitlines()[-1:] for _, err in ends]
    study = pytest.importorskip("optuna").load_study(study_name="search", storage=storage)
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE" and "repeats" not in trial.user_attrs]
    choices = [tuple(trial.user_attrs["claim"]["choice"]) for trial in complete]
    owners = [trial.user_attrs["claim"]["owner"] for trial in complete]
    assert len(set(choices)) == len(choices) and 14 <= len(choices) <= 15
    assert len(set(owners)) == 2 and min(map(owners.count, owners)) >= 3
    facts = [json.loads(out)["steps"][0]["facts"] for out, _ in ends]
    step = {"policy": "evolution", "target_macs": 0.4, "samples": 128, "trials": 7, "levels": 24}
    recipe = {"model": str(digits_model), "data": "digits", "latency_rounds": 0, "steps": [{"search": step}]}
    single = run(Run(validate(recipe), tmp_path / "alone"))["steps"][0]["facts"]
    assert max(f["winner_score"] for f in facts) >= single["winner_score"]
