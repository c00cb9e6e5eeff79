"""The search technique: a subject, a policy, and the winning step carried out."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import GuardMissed, InputError
from ..core.types import Context, Loaded, StepResult
from . import report
from .finalists import best_after_training, cheapest_within
from .options import SearchOptions
from .problem import Choice, Problem, Subject
from .rating import Rater
from .tables import ARCHITECTURES, POLICIES, SUBJECTS
from .team import Team

#: technique -> (options model, entry point); what carries out a winning step
_CARRIES_OUT = {
    "prune": ("compresskit.pruning.options:PruneOptions", "compresskit.pruning.structured:prune"),
    "decompose": (
        "compresskit.decomposition.options:DecomposeOptions",
        "compresskit.decomposition.decompose:decompose",
    ),
    "quantize": ("compresskit.quantization.options:QuantizeOptions", "compresskit.quantization.quantize:quantize"),
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
    if context.data is None:
        raise InputError("search scores candidates on data; name some with --data, e.g. --data digits")
    if options.policy in ARCHITECTURES:
        return SUBJECTS.load(options.technique)(loaded, options, context)
    with Team(options.ray) if options.ray else nullcontext() as team:
        problem, choice = _found(loaded, options, context, team)
    if options.finetune_finalists:
        choice = best_after_training(problem, choice, loaded, options, context, carry_out)
    result = carry_out(problem.subject.steps(choice), loaded, context)
    _describe(result, problem, choice, options, context)
    return result


def _found(loaded: Loaded, options: SearchOptions, context: Context, team: Team | None) -> tuple[Problem, Choice]:
    """The policy's choice, and the problem that it belongs to."""
    if "drop" in options.budget:
        return _within_drop(loaded, options, context, team)
    problem = open_problem(loaded, options, context, team)
    return problem, run_policy(options.policy, problem, context.seed, options)


def _within_drop(
    loaded: Loaded, options: SearchOptions, context: Context, team: Team | None
) -> tuple[Problem, Choice]:  # fmt: skip
    """The cheapest choice that loses no more of the metric than the budget's `drop`; other limits hold too."""
    subject = SUBJECTS.load(options.technique)(loaded, options, context)
    whole = subject.whole_costs()
    fixed = limits_of(options.budget, whole)
    cost = "macs" if "macs" in whole else "bytes"
    original = problem_of(subject, loaded, options, context).rater.original().score

    def make(limits: dict[str, float]) -> Problem:
        tighter = {name: min(limit, fixed.get(name, limit)) for name, limit in {**fixed, **limits}.items()}
        return problem_of(subject, loaded, options, context, limits=tighter, team=team)

    def run(problem: Problem) -> Choice:
        return run_policy(options.policy, problem, context.seed, options)

    least = subject.costs((0,) * len(subject.places))[cost]
    allowed = original - options.budget["drop"]
    problem, choice = cheapest_within(make, run, cost, least=least, whole=whole[cost], allowed=allowed)
    problem.notes.append(
        f"held-out score {problem.evaluate(choice).score:.4f} against the original's {original:.4f}: "
        f"within the drop of {options.budget['drop']:g}"
    )
    return problem, choice


def open_problem(loaded: Loaded, options: SearchOptions, context: Context, team: Team | None = None) -> Problem:
    """The problem that the options state."""
    subject = SUBJECTS.load(options.technique)(loaded, options, context)
    return problem_of(subject, loaded, options, context, team=team)


def problem_of(
    subject: Subject, loaded: Loaded, options: SearchOptions, context: Context,
    clock: Callable[[], float] = time.perf_counter, limits: dict[str, float] | None = None,
    team: Team | None = None,
) -> Problem:  # fmt: skip
    """The problem on a subject that is there already; its budget, scores and history are its own.

    Args:
        clock: what time is measured by.
        limits: absolute limits in the place of the options' budget.
        team: workers that rate candidates.
    """
    rater = Rater(
        loaded.clone().module, context, samples=options.score_samples, probe_samples=options.probe_samples
    )  # fmt: skip
    folder = Path(context.folder) if context.folder is not None else None
    return Problem(
        subject, limits or limits_of(options.budget, subject.whole_costs()), rater, trials=options.trials,
        seconds=options.seconds, log=context.log, folder=folder, source=options.policy, clock=clock, team=team,
    )  # fmt: skip


def limits_of(budget: dict[str, float], whole: dict[str, float]) -> dict[str, float]:
    """Absolute limits from a budget whose figures up to 1 are shares."""
    limits = {}
    for name, value in budget.items():
        if name == "drop":
            continue
        limits[name] = value * whole[name] if value <= 1 and name in whole else value
    return limits


def run_policy(name: str, problem: Problem, seed: int, options: SearchOptions) -> Choice:
    """Run a policy to its best choice."""
    problem.source = name
    policy: Callable[..., Choice] = POLICIES.load(name)
    choice = policy(problem, np.random.default_rng(seed), options)
    if not problem.fits(choice):
        raise GuardMissed(f"policy {name!r} found nothing within the budget; give it more trials or seconds")
    return choice


def carry_out(steps: Sequence[dict[str, Any]], loaded: Loaded, context: Context) -> StepResult:
    """Do recipe steps on a model, one after the other; facts are keyed by technique where there are several."""
    whole = StepResult(loaded)
    for step in steps:
        ((technique, values),) = step.items()
        model, run = (_resolve(target) for target in _CARRIES_OUT[technique])
        result = run(whole.loaded, model.model_validate(values), context)
        whole.loaded = result.loaded
        whole.facts |= result.facts if len(steps) == 1 else {technique: result.facts}
        whole.notes += result.notes
        whole.tables |= result.tables
        whole.files |= result.files
    return whole


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
    result.notes = [*problem.notes, *problem.subject.notes, *result.notes]
    if context.folder is not None:
        result.files |= report.plots(problem, choice, context.folder, result.notes)
        result.files["recipe.yaml"] = report.write_recipe(problem.subject.steps(choice), context, context.folder)
