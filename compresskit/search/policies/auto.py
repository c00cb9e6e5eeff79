"""`auto`: several policies share the budget of trials and time; what scores best is taken, and the report says why."""

from __future__ import annotations

import numpy as np

from ..options import SearchOptions
from ..problem.search_space import Problem
from ..problem.subject import Choice
from .baselines import uniform
from .solve import solve

#: share of trials and time after which solve gives way to exchanges
_SOLVE_SHARE = 0.7


def auto(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """Uniform, then solve, then exchanges between two places around the best so far."""
    stages = {"uniform": uniform, "solve": solve, "exchange": exchange}
    for name, policy in stages.items():
        problem.source = name
        with problem.limited(1.0 if name == "exchange" else _SOLVE_SHARE):
            policy(problem, generator, options)
    best = problem.best()
    if best is None:
        return problem.uniform()
    problem.notes.append(f"auto took the choice of {best.source}: {', '.join(_summaries(problem))}")
    problem.source = "auto"
    return best.choice


def _summaries(problem: Problem) -> list[str]:
    lines = []
    for source in dict.fromkeys(trial.source for trial in problem.history):
        own = [trial.score for trial in problem.history if trial.source == source and problem.fits(trial.choice)]
        if own:
            lines.append(f"{source} reached {max(own):.4f} in {len(own)} trial{'s' * (len(own) > 1)}")
    return lines


def exchange(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """Hill climbing: one place gains a level or two, another gives back what that costs, better ones stay."""
    best = problem.best() or problem.evaluate(problem.uniform())
    stale = 0
    while not problem.done() and stale < 60 and len(problem.places) > 1:
        count = len(problem.history)
        wanted = [_exchanged(problem, best.choice, generator) for _ in range(problem.room())]
        for trial in problem.evaluate_all(choice for choice in wanted if choice is not None):
            if (trial.score, -trial.divergence) > (best.score, -best.divergence):
                best = trial
        stale = stale + 1 if len(problem.history) == count else 0
    return best.choice


def _exchanged(problem: Problem, choice: Choice, generator: np.random.Generator) -> Choice | None:
    """A choice in which one place stands higher and another lower; None where that cannot meet the budget."""
    gains, gives = generator.choice(len(problem.places), 2, replace=False)
    levels = list(choice)
    levels[gains] = min(levels[gains] + int(generator.integers(1, 3)), len(problem.places[gains]) - 1)
    while not problem.fits(levels) and levels[gives] > 0:
        levels[gives] -= 1
    if not problem.fits(levels):
        return None
    others = [place for place in generator.permutation(len(levels)) if place not in (gains, gives)]
    return problem.filled(levels, others)
