"""optuna's samplers: they beat uniform, a study resumes, and two processes join one."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.search.options import SearchOptions
from compresskit.search.simple import uniform
from tests.search.toy import toy_problem

optuna = pytest.importorskip("optuna")


def policy_of(name):
    from compresskit.search import studies

    return getattr(studies, name)


@pytest.mark.parametrize("name", ["evolution", "tpe"])
def test_samplers_beat_uniform(name):
    options = SearchOptions(budget={"macs": 0.6}, policy=name)
    problem = toy_problem(budget=0.6, trials=80)
    choice = policy_of(name)(problem, np.random.default_rng(0), options)
    plain = toy_problem(budget=0.6)
    assert problem.fits(choice)
    assert problem.subject.loss(choice) < plain.subject.loss(uniform(plain, np.random.default_rng(0), options))


def test_a_study_goes_on_where_it_stopped(tmp_path):
    options = SearchOptions(budget={"macs": 0.6}, policy="tpe")
    policy_of("tpe")(toy_problem(trials=6, folder=tmp_path), np.random.default_rng(0), options)
    later = toy_problem(trials=10, folder=tmp_path)
    policy_of("tpe")(later, np.random.default_rng(0), options)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(study.trials) == 10
    assert len(later.history) <= 4


def test_processes_share_what_they_find(tmp_path):
    options = SearchOptions(budget={"macs": 0.6}, policy="evolution", storage=f"sqlite:///{tmp_path / 'common.db'}")
    first, second = toy_problem(trials=20), toy_problem(trials=40)
    policy_of("evolution")(first, np.random.default_rng(0), options)
    choice = policy_of("evolution")(second, np.random.default_rng(1), options)
    best = min(problem.subject.loss(t.choice) for problem in (first, second) for t in problem.history
               if second.fits(t.choice))  # fmt: skip
    assert second.subject.loss(choice) == pytest.approx(best)
    assert len(second.history) <= 20
