"""Baselines: uniform, random, greedy."""

from __future__ import annotations

import numpy as np

from .options import SearchOptions
from .problem import Choice, Problem


def uniform(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """The same share at every place, as large as the budget allows."""
    choice = problem.fitted(np.ones(len(problem.places)))
    problem.evaluate(choice)
    return choice


def random(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """Independent uniform shares, scaled to the budget; the best of all that were scored."""
    stale = 0
    while not problem.done() and stale < 100:
        choice = random_choice(problem, generator)
        before = len(problem.history)
        problem.evaluate(choice)
        stale = stale + 1 if len(problem.history) == before else 0
    best = problem.best()
    return best.choice if best else uniform(problem, generator, options)


def random_choice(problem: Problem, generator: np.random.Generator) -> Choice:
    """One random choice at the budget."""
    least = np.array([place.shares[0] for place in problem.places])
    shares = least + (1 - least) * generator.random(len(least))
    return problem.fitted(shares, generator.permutation(len(least)))


def greedy(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """Cut step by step; each step tries the places in turn and keeps the cut that costs the least score.

    Every step takes the same load off; there are as many steps as the budget of trials and time pays for.

    Source: Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications", ECCV 2018,
    algorithm 1, without its short fine-tunes.
    """
    choice = problem.largest()
    excess = problem.load(choice) - 1
    steps = max(1, problem.trials // max(len(problem.places), 1))
    begin = problem.elapsed
    while not problem.fits(choice):
        rated = []
        target = max(1.0, problem.load(choice) - excess / steps)
        for place in range(len(problem.places)):
            lowered = _lowered(problem, choice, place, target)
            if lowered is not None:
                trial = problem.evaluate(lowered)
                rated.append((trial.score, -trial.divergence, lowered))
            if problem.out_of_time():
                return problem.fitted([p.shares[level] for p, level in zip(problem.places, choice, strict=True)])
        if not rated:  # no single place can take a whole step off: lower all a little
            return problem.fitted([p.shares[level] for p, level in zip(problem.places, choice, strict=True)])
        choice = max(rated)[2]
        if problem.seconds is not None:  # as many more steps as the remaining time pays for
            left = (problem.seconds - problem.elapsed) / max((problem.elapsed - begin), 1e-9)
            begin = problem.elapsed
            excess, steps = max(problem.load(choice) - 1, 0.0), max(1, int(left))
    choice = problem.filled(choice)
    problem.evaluate(choice)
    return choice


def _lowered(problem: Problem, choice: Choice, place: int, target: float) -> Choice | None:
    """The choice with one place lowered until the load is at most the target; None where that place cannot do it."""
    for level in range(choice[place] - 1, -1, -1):
        lowered = (*choice[:place], level, *choice[place + 1 :])
        if problem.load(lowered) <= target:
            return lowered
    return None
