"""Baselines: uniform, random, greedy."""

from __future__ import annotations

import math

import numpy as np

from ..options import SearchOptions
from ..problem.search_space import Problem, replaced
from ..problem.subject import Choice

#: cuts that a greedy search makes at a place on average, fewest and most; trials that it takes for one where it can
_CUTS_A_PLACE, _TRIALS_A_CUT = (2, 8), 2
#: what the next cut at a place is taken to cost, relative to the one before, until it is tried
_NEXT_CUT = 2.0


def uniform(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """The same share at every place, as large as the budget allows."""
    choice = problem.uniform()
    problem.evaluate(choice)
    return choice


def random(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """Independent uniform shares, scaled to the budget; the best of all that were scored."""
    stale = 0
    while not problem.done() and stale < 100:
        choices = [random_choice(problem, generator) for _ in range(problem.room())]
        before = len(problem.history)
        problem.evaluate_all(choices)
        stale = stale + 1 if len(problem.history) == before else 0
    best = problem.best()
    return best.choice if best else uniform(problem, generator, options)


def random_choice(problem: Problem, generator: np.random.Generator) -> Choice:
    """One random choice at the budget."""
    least = np.array([place.shares[0] for place in problem.places])
    shares = least + (1 - least) * generator.random(len(least))
    return problem.fitted(shares.tolist(), generator.permutation(len(least)))


def greedy(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """Many small cuts of one size, each at the place where it adds least to the divergence from the original.

    A cut that was tried before counts as tried until its place comes out first; then it is tried anew. Where the budget
    of trials and time pays for few of them, several cuts are made between two.

    Source: Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications", ECCV 2018,
    algorithm 1, without its short fine-tunes; not trying all places anew for every cut is after Minoux, "Accelerated
    Greedy Algorithms for Maximizing Submodular Set Functions", 1978.
    """
    begin = problem.elapsed
    problem.evaluate(problem.uniform())  # the least there is
    choice = problem.largest()
    divergence = problem.evaluate(choice).divergence
    seconds = (problem.elapsed - begin) / 2
    fewest, most = (count * len(choice) for count in _CUTS_A_PLACE)
    cuts = min(max((_trials_left(problem, seconds) - len(choice)) // _TRIALS_A_CUT, fewest), most)
    harms: dict[int, float] = {}
    fresh: set[int] = set()
    lowered = _cuts(problem, choice, cuts)
    while lowered and not problem.fits(choice):
        left = _trials_left(problem, seconds)
        untried = -math.inf if left else math.inf
        order = sorted(lowered, key=lambda place: (harms.get(place, untried), place))
        if left and order[0] not in fresh:
            tried = [place for place in order if place not in fresh][: problem.room()]
            for place, trial in zip(tried, problem.evaluate_all(lowered[p] for p in tried), strict=True):
                harms[place] = trial.divergence - divergence
            fresh.update(tried)
            continue
        together = max(1, -(-cuts * _TRIALS_A_CUT // max(left, 1)))
        for place in order[:together]:
            if not problem.fits(choice):
                choice = replaced(choice, place, lowered[place][place])
                divergence += harms.get(place, 0.0)
                if together > 1 and place in harms:  # else what it cost stands, so that it is tried again
                    harms[place] *= _NEXT_CUT
                cuts = max(cuts - 1, 1)
        fresh.clear()
        lowered = _cuts(problem, choice, cuts)
    if not problem.fits(choice):  # no single place can take a whole cut off: lower all a little
        choice = problem.fitted([p.shares[level] for p, level in zip(problem.places, choice, strict=True)])
    problem.evaluate(problem.filled(choice))
    best = problem.best()
    return problem.uniform() if best is None else best.choice


def _trials_left(problem: Problem, seconds: float) -> int:
    """How many more trials are paid for, one kept for the result."""
    left = problem.trials - len(problem.history) - 1
    if problem.seconds is not None:
        left = min(left, int((problem.seconds - problem.elapsed) / max(seconds, 1e-9)) - 1)
    return max(left, 0)


def _cuts(problem: Problem, choice: Choice, count: int) -> dict[int, Choice]:
    """For each place that can do it alone, the choice in which it takes one of `count` equal parts off the excess."""
    load = problem.load(choice)
    found = {place: _lowered(problem, choice, place, load - (load - 1) / count) for place in range(len(choice))}
    return {place: cut for place, cut in found.items() if cut is not None}


def _lowered(problem: Problem, choice: Choice, place: int, target: float) -> Choice | None:
    """The choice with one place lowered until the load is at most the target; None where that place cannot do it."""
    for level in range(choice[place] - 1, -1, -1):
        lowered = (*choice[:place], level, *choice[place + 1 :])
        if problem.load(lowered) <= target + 1e-12:
            return lowered
    return None
