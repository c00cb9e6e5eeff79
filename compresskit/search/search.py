"""The search technique: a subject, a policy, and the winning step carried out."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..analysis.allocation.measured_aim import exceeded
from ..analysis.measure.work import Work, exact_costs, work_of
from ..core.costs import COSTS, cost_of, names
from ..core.errors import GuardMissed, InputError
from ..core.reporting.phases import phase
from ..core.types import Loaded
from ..quantization.layers.weights import bytes_by_kind
from ..training.context import Context, StepResult
from . import report
from .carrying_out import carry_out
from .nas.options import TECHNIQUE as ARCHITECTURE
from .options import SearchOptions
from .problem.budget import limits_of
from .problem.evaluator import Rater
from .problem.finalists import best_after_training, cheapest_within
from .problem.measured_budget import decided, measured, verdict, within_measured
from .problem.search_space import Problem
from .problem.subject import Choice, Subject
from .problem.worker_pool import WorkerPool
from .tables import POLICIES, SUBJECTS

#: winners that are made until one is within the bytes, and how far below it the next is looked for
_TRIES, _SLIGHTLY_LESS = 3, 0.9999


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
    if options.technique == ARCHITECTURE:
        return SUBJECTS.load(options.technique)(loaded, options, context)
    with WorkerPool(options.ray) if options.ray else nullcontext() as team, phase("choose", options.trials):
        problem, choice, missed = _found(loaded, options, context, team)
    if options.finetune_finalists:
        choice = best_after_training(problem, choice, loaded, options, context, carry_out)
    choice, result = _carried_out(problem, choice, loaded, context)
    _describe(result, problem, choice, options, context)
    result.missed = missed
    if name := options.measured_target():
        compared = measured(name, options.technique, loaded, result.loaded.module, context, rounds=12)
        facts, note = verdict(name, compared, options.targets()[name])
        result.facts |= facts
        result.notes.insert(0, note)
    return result


def _found(
    loaded: Loaded, options: SearchOptions, context: Context, team: WorkerPool | None
) -> tuple[Problem, Choice, list[str]]:
    """The problem, the policy's choice, and the measured budget that even the smallest of its choices exceeds."""
    problem = open_problem(loaded, options, context, team)

    def run(problem: Problem) -> Choice:
        return run_policy(options.policy, problem, context.seed, options)

    if options.target_drop is not None:
        return problem, _within_drop(problem, run, options), []
    if name := options.measured_target():
        bounds_share = options.targets()[name].is_share

        def share_of(choice: Choice) -> float:
            compared = decided(name, options.technique, loaded, problem.subject.build(choice), context)
            return compared.share if bounds_share else compared.after / problem.whole[name]

        target = problem.limits[name] / problem.whole[name]
        choice, share = within_measured(name, problem, run, share_of)
        missed = exceeded(name, share, target)
        return problem, choice, [missed] if missed else []
    return problem, run(problem), []


def _within_drop(problem: Problem, run: Callable[[Problem], Choice], options: SearchOptions) -> Choice:
    """The cheapest choice that loses no more of the metric than `target_drop`; other limits hold too."""
    original = problem.rater.original().score
    drop = problem.rater.metric.allowed_drop(options.target_drop or 0.0, original)
    choice = cheapest_within(problem, run, options.made_small(), allowed=original - drop)
    problem.notes.append(
        f"held-out score {problem.evaluate(choice).score:.4f} against the original's {original:.4f}: "
        f"within the drop of {drop:g}"
    )
    return choice


def _carried_out(problem: Problem, choice: Choice, loaded: Loaded, context: Context) -> tuple[Choice, StepResult]:
    """The winner, really made; where its bytes turn out above the budget, the best one below that by as much."""
    result = carry_out(problem.subject.steps(choice), loaded.clone(), context)
    for _ in range(_TRIES - 1):
        name, over = _over_limit(result.loaded, problem)
        if over <= 1:
            break
        problem.limits[name] = problem.subject.costs(choice)[name] / over * _SLIGHTLY_LESS
        best = problem.best()
        if best is None:
            break
        problem.notes.append(
            f"a choice came out {over - 1:.2%} above the {cost_of(name).noun} of the budget; the next best was taken"
        )
        choice = best.choice
        result = carry_out(problem.subject.steps(choice), loaded.clone(), context)
    return choice, result


def _over_limit(made: Loaded, problem: Problem) -> tuple[str, float]:
    """The cost that exceeds its limit most, and by which factor, of those that rounding makes known only roughly."""
    rough = [name for name in names("exact", technique="quantize") if name in problem.limits]
    own = [name for name in problem.limits if not COSTS.builtin(name) and cost_of(name).known == "exact"]
    stored_bytes = sum(bytes_by_kind(made.module, made.storage).values())
    work = replace(work_of(made), stored_bytes=stored_bytes) if own else Work(stored_bytes=stored_bytes)
    loads = {name: figure / problem.limits[name] for name, figure in exact_costs(work, (*rough, *own)).items()}
    return max(loads.items(), key=lambda row: row[1], default=("", 0.0))


def open_problem(loaded: Loaded, options: SearchOptions, context: Context, team: WorkerPool | None = None) -> Problem:
    """The problem that the options state."""
    subject = SUBJECTS.load(options.technique)(loaded, options, context)
    return problem_of(subject, loaded, options, context, team=team)


def problem_of(
    subject: Subject, loaded: Loaded, options: SearchOptions, context: Context,
    clock: Callable[[], float] = time.perf_counter, limits: dict[str, float] | None = None,
    team: WorkerPool | None = None,
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
        subject, limits or limits_of(options.targets(), subject.whole_costs()), rater, trials=options.trials,
        seconds=options.seconds, log=context.log, folder=folder, source=options.policy, clock=clock, team=team,
    )  # fmt: skip


def run_policy(name: str, problem: Problem, seed: int, options: SearchOptions) -> Choice:
    """Run a policy to its best choice."""
    problem.source = name
    policy: Callable[..., Choice] = POLICIES.load(name)
    choice = policy(problem, np.random.default_rng(seed), options)
    if not problem.fits(choice):
        raise GuardMissed(f"policy {name!r} found nothing within the budget; give it more trials or seconds")
    return choice


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
        "budget": options.budget(),
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
