"""A budget of what only measuring tells: predictions propose, the winner is measured, and that corrects the aim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from ...analysis.allocation.measured_aim import Tried, best_share, seek
from ...analysis.measure.latency import latency_ab
from ...analysis.measure.work import figure_of, whole_figure
from ...core.costs import Amount, cost_of, field_of, figure_key
from ...core.errors import GuardMissed
from ...core.timings.decisions import label
from ...core.types import Loaded, to_device
from ...model.example_inputs import with_batch
from ...training.context import Context
from .search_space import Problem
from .subject import Choice

#: winners that are timed; one this close below the budget ends the search
_ATTEMPTS = 5
_CLOSE = 0.95
_ROUNDS = 5


class Compared(NamedTuple):
    """A figure of the model that the search began with and of another, and the share that the other takes."""

    before: float
    after: float
    share: float


def timed(loaded: Loaded, module: nn.Module, context: Context, rounds: int = _ROUNDS) -> Compared:
    """Milliseconds of a module against the model that the search began with, in turn in this process."""
    example = to_device(with_batch(loaded.example, context.latency_batch), context.device)
    found = latency_ab(loaded.module, module, example, rounds=rounds, batch_size=context.latency_batch)
    return Compared(found.baseline_ms, found.model_ms, 1 / found.speedup)


def timed_in_onnxruntime(loaded: Loaded, module: nn.Module, context: Context, rounds: int = _ROUNDS) -> Compared:
    """The same in ONNX Runtime on one thread, whose kernels compute quantized layers in integers."""
    example = with_batch(loaded.example, context.latency_batch)
    before_ms, after_ms = context.runtime_timer().latencies_ms([loaded.module, module], example, rounds=4 * rounds)
    return Compared(before_ms, after_ms, after_ms / before_ms)


def measured(
    name: str, technique: str, loaded: Loaded, module: nn.Module, context: Context, rounds: int = _ROUNDS
) -> Compared:
    """A module's figure against that of the model that the search began with; times are taken where models are fast.

    Args:
        name: a row of `costs.COSTS` that is timed or predicted.
        technique: what is searched over.
        rounds: of timings.
    """
    if cost_of(name).known == "timed":
        return (timed_in_onnxruntime if technique == "quantize" else timed)(loaded, module, context, rounds)
    before = whole_figure(name, Loaded(loaded.module, {}, loaded.example))
    after = figure_of(name, Loaded(module, {}, loaded.example)) or 0.0
    return Compared(before, after, after / before)


def decided(name: str, technique: str, loaded: Loaded, module: nn.Module, context: Context) -> Compared:
    """A measured figure that decides what is chosen; times are recorded, so that a resume and a replay choose alike."""
    if cost_of(name).known != "timed":
        return measured(name, technique, loaded, module, context)
    asked = f"{name} of a candidate {label(technique, str(module), str(loaded.module), context.latency_batch)}"
    return Compared(*context.decisions(asked, lambda: list(measured(name, technique, loaded, module, context))))


def within_measured(
    name: str, problem: Problem, run: Callable[[Problem], Choice], share_of: Callable[[Choice], float]
) -> tuple[Choice, float]:
    """The policy's choice under the prediction of a cost at which what is measured meets the budget.

    Args:
        name: the cost.
        problem: its limit of the cost is moved, and left where the choice was found.
        run: runs the policy; candidates that were scored before cost nothing.
        share_of: measures a choice: its share of the whole model's figure.
    Returns:
        (choice, measured share): the largest choice within the budget, else the smallest.
    """
    whole, limit, noun = problem.whole[name], problem.limits[name], cost_of(name).noun
    target, least = limit / whole, problem.subject.costs(problem.smallest())[name]

    def propose(aim: float) -> tuple[Choice, float] | None:
        problem.limits[name] = limit if aim == target else max(aim * whole, least)
        try:
            choice = run(problem)
        except GuardMissed:
            return None  # the policy found nothing at this aim
        return choice, problem.subject.costs(choice)[name] / whole

    def tell(number: int, found: Tried) -> None:
        predicted = f"predicted {found.predicted:.1%}, wanted {target:.1%}"
        problem.log(f"{noun}: winner {number} keeps {found.measured:.1%} ({predicted})")

    tried = seek(target, propose, share_of, attempts=_ATTEMPTS, close=_CLOSE, tell=tell)
    if not tried:
        reached = f"{field_of(name)}: {noun} cannot come down to {target:.1%} here"
        raise GuardMissed(f"{reached}; lower min_keep_ratio, or allow more")
    best = best_share(tried, target)
    problem.limits[name] = max(target, best.predicted) * whole
    return best.choice, best.measured


def verdict(name: str, found: Compared, amount: Amount) -> tuple[dict[str, Any], str]:
    """Facts and a line on how a measured figure stands to its budget."""
    cost, key = cost_of(name), figure_key(name)
    facts = {f"{name}_kept": found.share, key: found.after, f"{key}_before": found.before}
    if amount.is_share:
        over, wanted = found.share / amount.value - 1, f"{amount.value:.1%}"
        got = f"{found.share:.1%} of the original's"
    else:
        over, wanted, got = found.after / amount.value - 1, cost.shown(amount.value), cost.shown(found.after)
    met = f"above the budget of {wanted} by {over:.1%} of it" if over > 0 else f"within the budget of {wanted}"
    facts[f"{name}_over_budget"] = max(over, 0.0)
    return facts, f"measured {cost.noun} is {got}, {met}"
