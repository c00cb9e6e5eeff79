"""`solve`: probe each place once, allocate the budget exactly, then correct for what places do to each other.

The loss of a level is estimated from the output error that it leaves in its layers, weighted by how much the prediction
depends on them (one backward pass); or it is measured on the whole model at two levels a place. The sum of losses is
minimized exactly within the budget. Places are not independent, so the losses' coefficients are then perturbed and the
budget solved again, and what scores better on held-out examples stays.

Source: the coefficient search follows Frantar & Alistarh, "SPDY: Accurate Pruning with Speedup Guarantees", ICML 2022,
section 3.3, with the output error of refitted layers for its layer-wise losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...analysis.allocation.several_budgets import Allocator
from ...analysis.sensitivity.loss_curve import loss_at
from ...core.errors import InputError
from ..options import SearchOptions
from ..problem.search_space import Problem, Trial
from ..problem.subject import Choice, Place

#: shares of the levels at which a place is probed
_PROBED = (0.25, 0.6)
#: standard deviation of the perturbation of a coefficient's logarithm, from the first to the last step
_SPREAD = (0.6, 0.15)


def solve(problem: Problem, generator: np.random.Generator, options: SearchOptions) -> Choice:
    """The best choice after probing, exact allocation and coefficient search."""
    losses = place_losses(problem, options.probe)
    allocator = Allocator([len(place) for place in problem.places], problem.loads)
    first = allocator.solve(losses)
    if first is None:
        raise InputError("no choice is within the budget")
    trial = problem.evaluate(first)
    uniform = problem.evaluate(problem.uniform())
    coefficients, best = np.zeros(len(losses)), trial
    stale = 0
    while not problem.done() and stale < 60:
        progress = _progress(problem)
        spread = _SPREAD[0] + (_SPREAD[1] - _SPREAD[0]) * progress
        moves = [_moved(coefficients, spread, generator) for _ in range(problem.room())]
        choices = []
        for moved in moves:
            scaled = [np.exp(c) * np.asarray(row) for c, row in zip(moved, losses, strict=True)]
            choices.append(allocator.solve(scaled, start=best.choice) or best.choice)
        count = len(problem.history)
        found = problem.evaluate_all(choices)
        stale = stale + 1 if len(problem.history) == count else 0
        for trial, moved in zip(found, moves, strict=True):
            if _better(trial, best):
                best, coefficients = trial, moved
    return max((best, uniform), key=_rank).choice


def _moved(coefficients: np.ndarray, spread: float, generator: np.random.Generator) -> np.ndarray:
    """Logarithms of the coefficients with a few of them changed at random."""
    count = len(coefficients)
    return coefficients + spread * generator.standard_normal(count) * (generator.random(count) < max(0.15, 3 / count))


def _progress(problem: Problem) -> float:
    return min(1.0, max(problem.time_share(), len(problem.history) / problem.trials))


def _rank(trial: Trial) -> tuple[float, float]:
    return trial.score, -trial.divergence


def _better(one: Trial, other: Trial) -> bool:
    return _rank(one) > _rank(other)


def place_losses(problem: Problem, probe: str) -> list[list[float]]:
    """The divergence that each level of each place alone causes, estimated or measured.

    Args:
        probe: "estimate" takes the subject's prediction, and where several layers read a place, scales it to one run of
            the model; "measure" runs the model at two levels a place, and takes the predictions' shape between them.
    """
    levels = [_probed_levels(place, probe) for place in problem.places]
    problem.probe_all([(number, level) for number, own in enumerate(levels) for level in own])
    # what building changes by itself, such as BatchNorm statistics from few examples, is no loss of a place
    untouched = problem.probe(0, len(problem.places[0]) - 1) if any(levels) else 0.0
    losses = []
    for number, own in enumerate(levels):
        errors = monotone(problem.subject.errors(number))
        # a run of few examples may show no loss at all: an estimate is not undercut, for nothing is free
        least = errors if probe == "estimate" else [0.0] * len(errors)
        points = [(errors[level], max(problem.probe(number, level) - untouched, least[level])) for level in own]
        losses.append([loss_at(points, error, power=1) for error in errors] if points else errors)
        if (number + 1) % 10 == 0 or number + 1 == len(problem.places):
            problem.log(f"estimated {number + 1} of {len(problem.places)} places, {problem.elapsed:.0f} s")
    return losses


def _probed_levels(place: Place, probe: str) -> list[int]:
    """The levels at which a place is probed."""
    top = len(place) - 1
    shares = _PROBED if probe == "measure" else _PROBED[:1] if place.readers > 1 else ()
    return sorted({min(top - 1, round(share * top)) for share in shares if top > 0})


def monotone(errors: Sequence[float]) -> list[float]:
    """Errors that never grow with the level (levels are numbered from the cheapest)."""
    return np.maximum.accumulate(np.asarray(errors)[::-1])[::-1].tolist()
