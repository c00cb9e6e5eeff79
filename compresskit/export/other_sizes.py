"""A file of dynamic dimensions runs at sizes that it was not traced at, and computes there what the model computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..core.errors import InputError, described
from ..core.types import Inputs, call
from .comparison import compare
from .exporters.dynamic_axes import leaves
from .exporters.traced import Traced
from .exporters.with_past import WithPast, next_inputs, without_past

#: a graph that fixed a size is wrong by more; a quantized one rounds differently by less (both in parts of the scale)
_LARGEST_SHARE = 0.05
_STEPS = 4


def check_sizes(trace: Traced, runner: nn.Module, facts: dict[str, Any]) -> dict[str, Any]:
    """Run a file at its second sizes, and compare with the model there; one with past tokens step by step.

    Args:
        trace: what was written.
        runner: the file in its runtime.
        facts: of the comparison at the first size.
    Returns:
        second_size (a shape for each input) and second_size_difference; empty where no dimension was named.
    Raises:
        InputError: if the runtime fails there, or computes something else.
    """
    if trace.second is None:
        return {}
    share = facts["largest_difference"] / max(facts["output_scale"], 1e-12)
    if isinstance(trace.module, WithPast):
        steps = _generated(trace.module, trace.example)
        found = _compared(trace.module, runner, steps, share)
        shown = {"steps": len(steps), "prompt": list(steps[0]["input_ids"].shape)}
        return {"with_past": shown, "with_past_difference": max(found["output_differences"].values())}
    found = _compared(trace.module, runner, [trace.second], share)
    shapes = [list(tensor.shape) for tensor in leaves(trace.second)]
    return {"second_size": shapes, "second_size_difference": found["largest_difference"]}


def _compared(module: nn.Module, runner: nn.Module, batches: Sequence[Inputs], share: float) -> dict[str, Any]:
    try:
        found = compare(module, runner, list(batches))
    except InputError as error:
        raise InputError(f"dynamic: at another size {error}; leave out of --dynamic what the model fixes") from error
    except Exception as error:  # the runtime's own
        raise InputError(f"dynamic: the runtime fails at another size: {described(error)}") from error
    if not found["largest_difference"] <= (_LARGEST_SHARE + 2 * share) * max(found["output_scale"], 1e-12):
        raise InputError(
            f"dynamic: at another size the file differs from the model by {found['largest_difference']:.3g} of "
            f"{found['output_scale']:.3g}: forward fixes a size in what it computes; leave it out of --dynamic"
        )
    return found


@torch.no_grad()
def _generated(module: nn.Module, example: Any) -> list[dict[str, torch.Tensor]]:
    """Inputs of a prompt without past tokens, and of the likeliest tokens after it, one a step."""
    steps = [without_past(example)]
    for _ in range(_STEPS):
        steps.append(next_inputs(call(module, steps[-1]), steps[-1]["attention_mask"]))
    return steps
