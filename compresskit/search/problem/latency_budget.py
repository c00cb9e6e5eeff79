"""A budget in time: a table of layer times proposes, the winner is timed, and what was measured corrects the aim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from ...analysis.measure.measure import latency_ab
from ...core.decisions import label
from ...core.errors import GuardMissed
from ...core.types import Loaded, to_device
from ...model.example_inputs import with_batch
from ...pruning.allocation.latency_model import best_share, next_aim
from ...training.context import Context
from .search_space import Problem
from .subject import Choice

#: winners that are timed; one this close below the budget ends the search
_ATTEMPTS = 5
_CLOSE = 0.95
_ROUNDS = 5


class Timing(NamedTuple):
    """Milliseconds of the model that the search began with and of another, and the share that the other takes."""

    before_ms: float
    after_ms: float
    share: float


def timed(loaded: Loaded, module: nn.Module, context: Context, rounds: int = _ROUNDS) -> Timing:
    """A module against the model that the search began with, in turn in this process."""
    example = to_device(with_batch(loaded.example, context.latency_batch), context.device)
    found = latency_ab(loaded.module, module, example, rounds=rounds, batch_size=context.latency_batch)
    return Timing(found.baseline_ms, found.model_ms, 1 / found.speedup)


def timed_in_onnxruntime(loaded: Loaded, module: nn.Module, context: Context, rounds: int = _ROUNDS) -> Timing:
    """The same in ONNX Runtime on one thread, whose kernels compute quantized layers in integers."""
    example = with_batch(loaded.example, context.latency_batch)
    before_ms, after_ms = context.runtime_timer().latencies_ms([loaded.module, module], example, rounds=4 * rounds)
    return Timing(before_ms, after_ms, after_ms / before_ms)


def timer_of(technique: str) -> Callable[..., Timing]:
    """How a technique's models are timed: where they are fast."""
    return timed_in_onnxruntime if technique == "quantize" else timed


def decided(technique: str, loaded: Loaded, module: nn.Module, context: Context) -> Timing:
    """A measured time that decides what is chosen: recorded, so that a resume and a replay choose alike."""
    name = f"latency of a candidate {label(technique, str(module), str(loaded.module), context.latency_batch)}"
    return Timing(*context.decisions(name, lambda: list(timer_of(technique)(loaded, module, context))))


def within_latency(
    problem: Problem, run: Callable[[Problem], Choice], share_of: Callable[[Choice], float]
) -> tuple[Choice, float]:
    """The policy's choice under the predicted latency at which the measured one meets the budget.

    Args:
        problem: its limit of latency_ms is moved, and left where the choice was found.
        run: runs the policy; candidates that were scored before cost nothing.
        share_of: measures a choice: its share of the whole model's latency.
    Returns:
        (choice, measured share): the slowest choice within the budget, else the fastest.
    """
    whole = problem.whole["latency_ms"]
    target = problem.limits["latency_ms"] / whole
    tried: list[tuple[float, float, Choice]] = []
    for number in range(1, _ATTEMPTS + 1):
        try:
            choice = run(problem)
        except GuardMissed:
            break  # the aim is below what the table predicts of the smallest choice
        if any(choice == earlier for *_, earlier in tried):
            break
        share, predicted = share_of(choice), problem.subject.costs(choice)["latency_ms"] / whole
        problem.log(f"latency: winner {number} keeps {share:.1%} (predicted {predicted:.1%}, wanted {target:.1%})")
        tried.append((share, predicted, choice))
        if target * _CLOSE <= share <= target:
            break
        problem.limits["latency_ms"] = next_aim([one[:2] for one in tried], target) * whole
    if not tried:
        raise GuardMissed(f"budget: latency cannot come down to {target:.1%} here; lower floor, or allow more")
    share, predicted, choice = best_share(tried, target)
    problem.limits["latency_ms"] = max(target, predicted) * whole
    return choice, share


def verdict(measured: Timing, budget: Mapping[str, float]) -> tuple[dict[str, Any], str]:
    """Facts and a line on how a measured latency stands to the budget."""
    facts = {
        "latency_kept": measured.share, "latency_ms": measured.after_ms, "latency_ms_before": measured.before_ms,
    }  # fmt: skip
    if "latency" in budget:
        over, wanted = measured.share / budget["latency"] - 1, f"{budget['latency']:.1%}"
        got = f"{measured.share:.1%} of the original's"
    else:
        over = measured.after_ms / budget["latency_ms"] - 1
        wanted, got = f"{budget['latency_ms']:g} ms", f"{measured.after_ms:.3g} ms"
    met = f"above the budget of {wanted} by {over:.1%} of it" if over > 0 else f"within the budget of {wanted}"
    facts["latency_over_budget"] = max(over, 0.0)
    return facts, f"measured latency is {got}, {met}"
