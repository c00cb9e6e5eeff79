"""The search technique: a subject, a policy, and the winning step carried out."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import GuardMissed
from ..core.types import Context, Loaded, StepResult
from . import report
from .options import SearchOptions
from .problem import Choice, Problem
from .rating import Rater
from .tables import POLICIES, SUBJECTS

#: technique -> (options model, entry point); what carries out a winning step
_CARRIES_OUT = {
    "prune": ("compresskit.pruning.options:PruneOptions", "compresskit.pruning.structured:prune"),
}


def search(loaded: Loaded, options: SearchOptions, context: Context) -> StepResult:
    """Find each place's share under a budget, and compress the model accordingly.

    Args:
        loaded: the model.
        options: technique, budget, policy.
        context: data for scoring; seed, log, and the folder in which a killed search finds what it had scored.
    Returns:
        the compressed model, the policy that made it, every trial, and `recipe.yaml` that replays it.
    Raises:
        InputError: without data, or where nothing can be searched.
        GuardMissed: if the budget is out of reach.
    """
    problem = open_problem(loaded, options, context)
    choice = run_policy(options.policy, problem, context.seed)
    result = carry_out(problem.subject.step(choice), loaded, context)
    _describe(result, problem, choice, options, context)
    return result


def open_problem(loaded: Loaded, options: SearchOptions, context: Context) -> Problem:
    """The problem that the options state."""
    rater = Rater(
        loaded.clone().module, context, samples=options.score_samples, probe_samples=options.probe_samples
    )  # fmt: skip
    subject = SUBJECTS.load(options.technique)(loaded, options, context)
    memory = Path(context.folder) / "ratings.jsonl" if context.folder is not None else None
    return Problem(
        subject, limits_of(options.budget, subject.whole_costs()), rater, trials=options.trials,
        seconds=options.seconds, log=context.log, memory=memory, source=options.policy,
    )  # fmt: skip


def limits_of(budget: dict[str, float], whole: dict[str, float]) -> dict[str, float]:
    """Absolute limits from a budget whose figures up to 1 are shares (milliseconds never are)."""
    limits = {}
    for name, value in budget.items():
        if name == "drop":
            continue
        is_share = name != "latency_ms" and value <= 1
        limits[name] = value * whole[name] if is_share and name in whole else value
    return limits


def run_policy(name: str, problem: Problem, seed: int) -> Choice:
    """Run a policy to its best choice."""
    problem.source = name
    policy: Callable[..., Choice] = POLICIES.load(name)
    choice = policy(problem, np.random.default_rng(seed))
    if not problem.fits(choice):
        raise GuardMissed(f"policy {name!r} found nothing within the budget; give it more trials or seconds")
    return choice


def carry_out(step: dict[str, dict[str, Any]], loaded: Loaded, context: Context) -> StepResult:
    """Do a recipe step on a model."""
    if not step:
        return StepResult(loaded)
    ((technique, values),) = step.items()
    model, run = (_resolve(target) for target in _CARRIES_OUT[technique])
    return run(loaded, model.model_validate(values), context)


def _resolve(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _describe(
    result: StepResult, problem: Problem, choice: Choice, options: SearchOptions, context: Context
) -> None:  # fmt: skip
    winner = problem.evaluate(choice)
    result.facts = {
        "policy": options.policy,
        "trials": len(problem.history),
        "search_seconds": round(problem.elapsed, 3),
        "winner_score": winner.score,
        "winner_divergence": winner.divergence,
        **{f"{name}_kept": share for name, share in winner.costs.items()},
        "budget": dict(options.budget),
        "choice": list(choice),
        "curve": report.curve(problem),
        "pareto": report.pareto_rows(problem),
        "step": result.facts,
    }
    result.tables["policy"] = report.policy_rows(problem, choice)
    result.notes = [*problem.subject.notes, *result.notes]
    if context.folder is not None:
        result.files["recipe.yaml"] = report.write_recipe(problem.subject.step(choice), context, context.folder)
