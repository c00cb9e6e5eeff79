"""Samplers of optuna: evolution (NSGA-II) and TPE.

Several processes join one study by naming the same storage; each scores its own candidates and learns from all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...core.errors import require
from ..options import SearchOptions
from ..problem.evaluator import Rating
from ..problem.search_space import Problem
from ..problem.subject import Choice
from .study import SharedStudy

_POPULATION = 16
#: draws in a row that were scored before, after which a search ends
_STALE = 100


def evolution(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """NSGA-II on score and load; candidates are scaled to the budget.

    Source: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002, through optuna.
    """
    optuna = require("optuna", "search")
    population = int(min(_POPULATION, max(4, problem.trials // 4)))

    def sampler(seed: int) -> Any:
        return optuna.samplers.NSGAIISampler(population_size=population, seed=seed)

    return _run(problem, generator, options, sampler, objectives=2)


def tpe(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """Tree-structured Parzen estimators on the score.

    Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, through optuna.
    """
    optuna = require("optuna", "search")
    at_once = problem.room() > 1 or options.storage is not None

    def sampler(seed: int) -> Any:
        # what others have in hand counts as bad, so that they are not all given the same
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=max(5, problem.trials // 8), constant_liar=at_once
        )  # fmt: skip

    return _run(problem, generator, options, sampler, objectives=1)


def _run(
    problem: Problem, generator: np.random.Generator, options: SearchOptions, sampler: Callable[[int], Any],
    objectives: int,
) -> Choice:  # fmt: skip
    study = SharedStudy(problem, options, sampler, int(generator.integers(2**31)), objectives)
    stale = 0
    while not problem.done() and stale < _STALE:
        drawn = [study.claimed() for _ in range(problem.room())]
        claimed = [one for one in drawn if one is not None]
        for (trial, choice), found in zip(claimed, problem.evaluate_all(c for _, c in claimed), strict=True):
            study.tell(trial, Rating(found.score, found.divergence), problem.load(choice))
        stale = 0 if claimed else stale + 1
        study.take_in()
    best = problem.best()
    return best.choice if best else problem.uniform()
