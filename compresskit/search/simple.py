"""Baselines: uniform, random, greedy."""

from __future__ import annotations

import numpy as np

from .options import SearchOptions
from .problem import Choice, Problem

#: cuts that a greedy search makes at a place, on average, where time allows
_CUTS_A_PLACE = 2


def uniform(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """The same share at every place, as large as the budget allows."""
    choice = problem.fitted(np.ones(len(problem.places)))
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
    return problem.fitted(shares, generator.permutation(len(least)))


def greedy(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """Cut round by round; each round tries a cut of the same size at every place and makes those that cost least score.

    A round makes one cut where the budget of trials and time pays for many rounds, else as many as it takes for the
    rounds that it pays for to reach about two cuts a place.

    Source: Yang et al., "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications", ECCV 2018,
    algorithm 1, without its short fine-tunes.
    """
    choice = problem.largest()
    begin = problem.elapsed
    problem.evaluate(problem.fitted(np.ones(len(problem.places))))  # the least there is, and what a trial takes
    round_seconds = (problem.elapsed - begin) * len(problem.places)
    cuts = _CUTS_A_PLACE * len(problem.places)
    while not problem.fits(choice):
        rounds = max(1, (problem.trials - len(problem.history)) // len(problem.places))
        if problem.seconds is not None:
            rounds = max(1, min(rounds, int((problem.seconds - problem.elapsed) / max(round_seconds, 1e-9))))
        together = max(1, -(-cuts // rounds))
        excess = problem.load(choice) - 1
        begin = problem.elapsed
        rated = _rated_cuts(problem, choice, excess / max(cuts, together))
        if not rated:  # no single place can take a whole cut off: lower all a little
            choice = problem.fitted([p.shares[level] for p, level in zip(problem.places, choice, strict=True)])
            break
        round_seconds = problem.elapsed - begin
        levels = list(choice)
        for place, level in rated[:together]:
            if not problem.fits(levels):
                levels[place] = level
        choice, cuts = tuple(levels), max(cuts - together, 1)
    problem.evaluate(problem.filled(choice))
    return problem.best().choice


def _rated_cuts(problem: Problem, choice: Choice, size: float) -> list[tuple[int, int]]:
    """(place, level) of a cut at each place that can take `size` off the load, the least harmful first.

    Places left over when the time is up are not among them.
    """
    lowered = [
        (place, cut) for place in range(len(problem.places))
        if (cut := _lowered(problem, choice, place, problem.load(choice) - size)) is not None
    ]  # fmt: skip
    rated = []
    while lowered and not (rated and problem.out_of_time()):
        batch, lowered = lowered[: problem.room()], lowered[problem.room() :]
        for (place, cut), trial in zip(batch, problem.evaluate_all(cut for _, cut in batch), strict=True):
            rated.append((-trial.score, trial.divergence, place, cut[place]))
    return [(place, level) for *_, place, level in sorted(rated)]


def _lowered(problem: Problem, choice: Choice, place: int, target: float) -> Choice | None:
    """The choice with one place lowered until the load is at most the target; None where that place cannot do it."""
    for level in range(choice[place] - 1, -1, -1):
        lowered = (*choice[:place], level, *choice[place + 1 :])
        if problem.load(lowered) <= target + 1e-12:
            return lowered
    return None
