"""The last choices: a short training of the best few candidates, and the cheapest model within a drop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ...core.errors import GuardMissed
from ...core.types import Loaded
from ...training.context import Context, StepResult
from ...training.loop import train
from ...training.options import TrainOptions
from ..options import SearchOptions
from .search_space import Problem
from .subject import Choice

_BATCH = 64
_RATE = 0.01
_HALVINGS = 6


def best_after_training(
    problem: Problem, choice: Choice, loaded: Loaded, options: SearchOptions, context: Context,
    carry_out: Callable[[Any, Loaded, Context], StepResult],
) -> Choice:  # fmt: skip
    """Train the best few candidates for some steps and return the one with the best held-out score.

    Accuracy before training says little of accuracy after it among good candidates, so training decides.
    """
    ranked = sorted(
        (trial for trial in problem.history if problem.fits(trial.choice)),
        key=lambda trial: (-trial.score, trial.divergence, trial.number),
    )
    finalists = list(dict.fromkeys([choice, *(trial.choice for trial in ranked)]))[: options.finetune_finalists]
    quiet = replace(context, folder=None, log=lambda line: None)
    rows = []
    for number, finalist in enumerate(finalists):
        result = carry_out(_untuned(problem.subject.steps(finalist)), loaded.clone(), quiet)
        training = TrainOptions(
            epochs=1, train_limit=options.finetune_steps * _BATCH, batch_size=_BATCH, lr=_RATE, keep="last"
        )
        train(result.loaded, training, quiet)
        rating = problem.rater.rate(result.loaded.module)
        rows.append((rating.score, -rating.divergence, -number))
        problem.log(f"finalist {number + 1} of {len(finalists)}: score {rating.score:.4f} after training")
    best = max(range(len(rows)), key=rows.__getitem__)
    problem.notes.append(
        f"{len(finalists)} finalists were trained for {options.finetune_steps} steps; "
        f"number {best + 1} scored best with {rows[best][0]:.4f}"
    )
    return finalists[best]


def _untuned(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same steps without tuning blocks by gradients, which training stands for here."""
    return [
        {
            technique: values | {"reconstruct": "sequential" if technique == "prune" else "none"}
            if values.get("reconstruct", "auto") == "auto"
            else values
        }
        for step in steps
        for technique, values in step.items()
    ]


def cheapest_within(problem: Problem, run: Callable[[Problem], Choice], cost: str, *, allowed: float) -> Choice:
    """The cheapest choice whose held-out score is at least as high as allowed, by halving the budget's interval.

    Each halving gets an equal share of the problem's trials and time. Of all candidates scored on the way, the cheapest
    that keeps the score is taken.

    Args:
        problem: its limit of the cost is moved, and left at what the choice costs; other limits hold.
        run: runs the policy.
        cost: what is made small.
        allowed: the lowest score that is accepted.
    Raises:
        GuardMissed: if nothing that was scored keeps the score.
    """
    fixed = dict(problem.limits)
    whole = problem.whole[cost]
    low, high = problem.subject.costs(problem.smallest())[cost], min(whole, fixed.get(cost, whole))
    loosest = (low + high) / 2
    for number in range(1, _HALVINGS + 1):
        problem.limits[cost] = (low + high) / 2
        with problem.limited(number / _HALVINGS):
            choice = run(problem)
        score = problem.evaluate(choice).score
        kept = "kept" if score >= allowed else "too low"
        problem.log(f"{cost} {problem.limits[cost] / whole:.1%}: score {score:.4f}, {kept}")
        low, high = (low, problem.limits[cost]) if score >= allowed else (problem.limits[cost], high)
    problem.limits = fixed
    good = [trial for trial in problem.history if trial.score >= allowed and problem.fits(trial.choice)]
    if not good:
        raise GuardMissed(
            f"no choice with {cost} at {loosest / whole:.1%} or below keeps a score of {allowed:.4f}; allow a larger "
            "drop, or recover afterwards under a fixed budget"
        )
    best = min(good, key=lambda trial: (trial.costs[cost], -trial.score, trial.number))
    problem.limits = {**fixed, cost: problem.subject.costs(best.choice)[cost]}
    return best.choice
