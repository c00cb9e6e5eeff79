"""Ray workers: candidates are rated alike in other processes, and each policy ends as well as it does alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rich.console import Console

from compresskit.core.errors import InputError
from compresskit.core.user_code.in_memory import named_objects
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run
from compresskit.pruning.tables import CRITERIA
from compresskit.search.options import SearchOptions
from compresskit.search.problem.worker_pool import RatingRequest, WorkerPool
from compresskit.search.tables import POLICIES
from tests.search.toy import ToySubject, best_possible, toy_problem

#: policies whose candidates do not depend on how many are scored at once
SAME = ("uniform", "random")
#: policies that find the best there is on the toy problem
EXACT = ("solve", "auto")
OTHERS = ("greedy", "evolution", "tpe", "amc", "haq")
TRIALS = 24


@pytest.fixture(scope="module")
def cluster():
    """A local cluster that the searches find and leave, with room for two teams of two workers."""
    ray = pytest.importorskip("ray")
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_worker_niceness", "0")
    try:
        ray.init(num_cpus=4, include_dashboard=False, configure_logging=False, log_to_driver=False)
    except Exception as error:  # Ray gives a node half a minute, and raises plain exceptions
        pytest.skip(f"no Ray cluster starts here: {error}")
    yield
    ray.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def team(cluster):
    with WorkerPool(2) as made:
        yield made


def found(name, **options):
    problem = toy_problem(budget=0.6, trials=TRIALS, **options)
    choice = POLICIES.load(name)(
        problem, np.random.default_rng(0), SearchOptions(target_macs=0.6, policy=name)
    )  # fmt: skip
    return problem, choice


@pytest.mark.integration
@pytest.mark.parametrize("name", [*SAME, *EXACT, *OTHERS])
def test_each_policy_ends_as_well_as_alone(name, team):
    problem, choice = found(name, team=team)
    assert problem.fits(choice) and len(problem.history) <= TRIALS
    assert problem.subject.built == 0  # all was built by the workers
    if name in SAME:
        alone, own = found(name)
        assert [t.choice for t in problem.history] == [t.choice for t in alone.history]
        assert choice == own
    elif name in EXACT:
        assert problem.subject.loss(choice) == pytest.approx(best_possible(problem))
    else:
        assert problem.subject.loss(choice) < 0.8 * problem.subject.loss(found("uniform")[1])


def test_a_search_on_two_workers_finds_what_one_process_finds(cluster, digits_model, tmp_path):
    step = {"target_macs": 0.4, "trials": 6, "samples": 128, "policy": "random"}
    facts = []
    for name, more in (("alone", {}), ("spread", {"ray": 2})):
        recipe = {"model": str(digits_model), "data": "digits", "latency_rounds": 0, "steps": [{"search": step | more}]}
        terminal = Console(stderr=True)  # as the command line has it
        task = Run(validate(recipe), tmp_path / name, log=lambda line, terminal=terminal: terminal.print(line))
        facts.append(run(task)["steps"][0]["facts"])
    first, second = facts
    assert first["choice"] == second["choice"]
    assert first["winner_score"] == second["winner_score"]
    assert first["winner_divergence"] == pytest.approx(second["winner_divergence"], rel=1e-5)


class NamingSubject(ToySubject):
    """Builds what some names stand for, as spaces do with the names of their options."""

    names = ()

    def build(self, choice):
        for name in self.names:
            CRITERIA.load(name)(torch.ones(2), None)
        return super().build(choice)


@pytest.mark.integration
def test_workers_know_the_rows_of_the_session_and_of_the_users_files(cluster, tmp_path, monkeypatch):
    (tmp_path / "own_of_workers.py").write_text("def plain(weights, statistics):\n    return weights\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(CRITERIA, "_registered", {})
    CRITERIA.register("of-this-session", lambda weights, statistics: weights.abs())
    problem = toy_problem()
    subject = NamingSubject()
    subject.names = ("of-this-session", "own_of_workers.py:plain", "own_of_workers:plain", "in-memory:twice_1")
    with named_objects({"twice_1": lambda weights, statistics: 2 * weights}), WorkerPool(1) as team:
        (rating,) = team.rate(subject, problem.rater, [RatingRequest(problem.smallest())])
        subject = NamingSubject()
        subject.names = ("gone.py:plain",)
        with pytest.raises(InputError, match=r"^[^\n]*gone\.py[^\n]*$"):
            team.rate(subject, problem.rater, [RatingRequest(problem.smallest())])
    assert rating.score == problem.rater.rate(ToySubject().build(problem.smallest())).score


@pytest.mark.integration
def test_more_workers_than_processors_are_refused(cluster):
    problem = toy_problem()
    with WorkerPool(1000) as team, pytest.raises(InputError, match="1000 workers need a CPU each, the cluster has 4"):
        team.rate(problem.subject, problem.rater, [RatingRequest(problem.smallest())])


@pytest.mark.integration
def test_what_cannot_be_sent_is_refused(cluster):
    problem = toy_problem()
    problem.subject.notes = (line for line in ())
    with WorkerPool(2) as team, pytest.raises(InputError, match="cannot be sent to workers: .*generator"):
        team.rate(problem.subject, problem.rater, [RatingRequest(problem.smallest())])


@pytest.mark.integration
@pytest.mark.parametrize("policy", ["n2n", "transform", "nas"])
def test_architectures_take_no_workers(policy):
    with pytest.raises(ValueError, match="ray would be ignored: technique is 'architecture'"):
        SearchOptions(technique="architecture", policy=policy, target_macs=0.5, ray=2)
