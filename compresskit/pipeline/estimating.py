"""Roughly how long steps will take, from a forward and a backward pass of the model that are timed beforehand."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from ..core.effort import EffortOptions, Passes
from ..core.reporting.phases import duration
from ..core.tensors.batches import count_examples
from ..core.tensors.devices import device_of
from ..core.tensors.modules import evaluating
from ..core.tensors.randomness import unchanged_random_state
from ..core.types import Inputs, Loaded, call, main_output, to_device
from ..model.example_inputs import with_batch
from ..training.context import Context
from .recipe import Recipe, RecipeOptions, Step, place_of

_BATCH = 32
_SLOW_SECONDS = 0.1  # an example that takes longer is timed alone
_BACKWARD = 3.0  # forwards that a forward and a backward pass take, where the backward cannot be timed
_LATENCY_ROUND_SECONDS = 0.5  # one A/B round: a tenth of a second and more for each of the two models


@dataclass(frozen=True)
class Speed:
    """Seconds that one example takes.

    Attributes:
        forward: forward alone.
        backward: forward and backward.
    """

    forward: float
    backward: float

    def of(self, passes: Passes) -> float:
        """Seconds of some passes."""
        return passes.forward * self.forward + passes.backward * self.backward


def measured_speed(loaded: Loaded, context: Context) -> Speed | None:
    """Time a forward and a backward pass on the data's examples, else the model's; None where it does not run on it."""
    module = loaded.module
    device = device_of(module)
    with unchanged_random_state(context.device), evaluating(module):
        try:
            inputs = to_device(_examples(loaded, context, 1), device)
            alone = _seconds_an_example(loaded, inputs, backward=False)
            if alone < _SLOW_SECONDS:
                inputs = to_device(_examples(loaded, context, _BATCH), device)
            forward = _seconds_an_example(loaded, inputs, backward=False)
        except Exception:  # the model's own code: the example's batch is fixed, say
            return None
        try:
            backward = _seconds_an_example(loaded, inputs, backward=True)
        except Exception:  # the model's own code again, or integer weights, say
            backward = _BACKWARD * forward
    return Speed(forward, max(backward, forward))


def _examples(loaded: Loaded, context: Context, count: int) -> Inputs:
    """Examples of the data, which may be larger than the model's own: texts of another length, say."""
    if context.data is None:
        return with_batch(loaded.example, count)
    return next(iter(context.data.batches("test", batch_size=count)))[0]


def _seconds_an_example(loaded: Loaded, inputs: Inputs, *, backward: bool) -> float:
    best = float("inf")
    weights = [one for one in loaded.module.parameters() if one.requires_grad] if backward else []
    for _ in range(2):
        started = time.perf_counter()
        with torch.set_grad_enabled(backward):
            output = main_output(call(loaded.module, inputs))
            if backward:
                torch.autograd.grad(output.float().sum(), weights, allow_unused=True)
        if output.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best / max(count_examples(inputs), 1)


def estimated(recipe: Recipe, context: Context) -> list[dict[str, Any]]:
    """Of each step: the effort, what it chooses, and the seconds that the step will take, roughly.

    Returns:
        a record each: {place, effort, chosen, seconds}; seconds are None where nothing could be timed, and count the
        model as it is before the first step.
    """
    speed = measured_speed(context.original, context)
    records = [
        {"place": place_of(recipe, number), **_record(step, recipe.options, context, speed)}
        for number, step in enumerate(recipe.steps)
    ]
    if speed is not None and records:  # the baseline is measured first
        records[0]["seconds"] = round(records[0]["seconds"] + _judging(context, speed), 1)
    return records


def _record(step: Step, options: RecipeOptions, context: Context, speed: Speed | None) -> dict[str, Any]:
    own = step.options if isinstance(step.options, EffortOptions) else None
    return {
        "effort": own.effort if own else None,
        "chosen": own.effort_chooses() if own else {},
        "seconds": None
        if speed is None
        else round(_work(own, context, speed) + _measuring(options, context, speed), 1),
    }


def _work(own: EffortOptions | None, context: Context, speed: Speed) -> float:
    if own is None or context.data is None:
        return 0.0
    seconds = speed.of(own.passes(context.data.known_size("train") or 0))
    at_most = own.seconds_at_most()
    return seconds if at_most is None else min(seconds, at_most)


def _measuring(options: RecipeOptions, context: Context, speed: Speed) -> float:
    return _judging(context, speed) + _LATENCY_ROUND_SECONDS * options.latency_rounds


def _judging(context: Context, speed: Speed) -> float:
    judged = 0 if context.data is None else min(context.data.known_size("test") or 0, context.eval_limit or 1 << 62)
    return speed.forward * judged


def said(record: dict[str, Any]) -> str:
    """A record as a line of progress."""
    effort = f"effort {record['effort']}" if record["effort"] else ""
    chosen = ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                       for name, value in record["chosen"].items())  # fmt: skip
    length = f"about {duration(record['seconds'])}" if record["seconds"] is not None else "length not known"
    return f"{record['place']}: " + "; ".join(filter(None, [f"{effort}{': ' if chosen else ''}{chosen}", length]))
