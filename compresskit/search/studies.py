"""Samplers of optuna on a study that outlives the process: evolution (NSGA-II) and TPE.

Several processes join one study by naming the same storage; each scores its own candidates and learns from all.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ..core.errors import require
from .options import SearchOptions
from .problem import Choice, Problem

_POPULATION = 16


def evolution(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """NSGA-II on score and load; candidates over the budget are scaled down to it.

    Source: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002, through optuna.
    """
    optuna = require("optuna", "search")
    population = int(min(_POPULATION, max(4, problem.trials // 4)))

    def sampler(seed: int) -> Any:
        return optuna.samplers.NSGAIISampler(population_size=population, seed=seed)

    return _run(problem, generator, options, sampler, ["maximize", "minimize"])


def tpe(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """Tree-structured Parzen estimators on the score.

    Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, through optuna.
    """
    optuna = require("optuna", "search")

    def sampler(seed: int) -> Any:
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(5, problem.trials // 8))

    return _run(problem, generator, options, sampler, ["maximize"])


def open_study(problem: Problem, options: SearchOptions, sampler: Any, directions: list[str]) -> Any:
    """The study of a search: in the given storage, else a sqlite file in the step's folder, else in memory."""
    optuna = require("optuna", "search")
    optuna.logging.set_verbosity(logging.WARNING)
    storage = options.storage
    if storage is None and problem.folder is not None:
        problem.folder.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{problem.folder / 'study.db'}"
    return optuna.create_study(
        storage=storage, study_name=options.study, sampler=sampler, directions=directions, load_if_exists=True
    )


def _run(
    problem: Problem, generator: np.random.Generator, options: SearchOptions, sampler: Any, directions: list[str]
) -> Choice:
    from optuna.trial import TrialState

    study = open_study(problem, options, sampler(0), directions)
    # another process on the study, or this one after a kill, must not draw the same candidates again
    study.sampler = sampler(int(generator.integers(2**31)) + len(study.trials))
    if not study.trials:
        uniform = problem.fitted(np.ones(len(problem.places)))
        study.enqueue_trial(
            {_name(n, p): level for (n, p), level in zip(enumerate(problem.places), uniform, strict=True)}
        )
    while not _done(problem, study, TrialState.COMPLETE):
        trial = study.ask()
        wanted = [trial.suggest_int(_name(n, place), 0, len(place) - 1) for n, place in enumerate(problem.places)]
        choice = _within(problem, wanted)
        found = problem.evaluate(choice)
        trial.set_user_attr("choice", list(choice))
        trial.set_user_attr("divergence", found.divergence)
        values = [found.score, problem.load(choice)]
        study.tell(trial, values[: len(directions)])
    return _best_of(problem, study, TrialState.COMPLETE)


def _name(number: int, place: Any) -> str:
    return f"{number} {place.name}"


def _within(problem: Problem, levels: list[int]) -> Choice:
    """A choice as it is, or scaled down to the budget."""
    if problem.fits(levels):
        return tuple(levels)
    return problem.fitted([place.shares[level] for place, level in zip(problem.places, levels, strict=True)])


def _done(problem: Problem, study: Any, complete: Any) -> bool:
    finished = len(study.get_trials(deepcopy=False, states=(complete,)))
    return finished >= problem.trials or problem.out_of_time()


def _best_of(problem: Problem, study: Any, complete: Any) -> Choice:
    """The best choice of the whole study, other processes' included."""
    finished = study.get_trials(deepcopy=False, states=(complete,))
    rated = [
        (trial.values[0], -trial.user_attrs["divergence"], tuple(trial.user_attrs["choice"]))
        for trial in finished if "choice" in trial.user_attrs and problem.fits(trial.user_attrs["choice"])
    ]  # fmt: skip
    own = problem.best()
    if own is not None:
        rated.append((own.score, -own.divergence, own.choice))
    return max(rated)[2] if rated else problem.fitted(np.ones(len(problem.places)))
