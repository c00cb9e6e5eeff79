"""The proof of a cut: the cut model computes what the whole model computes with those channels zeroed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...analysis.calibration.hooks import watch_calls
from ...core.tensors.copying import copy_module
from ...core.tensors.dtypes import copy_in, fit_inputs
from ...core.tensors.randomness import random_states, same_draws
from ...core.types import Inputs, call
from ..dependency.graph import Graph
from ..dependency.tracer import Trace, run
from .surgery import cut

#: largest accepted difference, relative to the largest output
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}

#: why a cut cannot be proven where the model draws noise for the channels that go
NOISE = (
    "the output is random: forward draws noise in the shape of these channels, so the cut model draws other numbers "
    "than the masked one; draw none in eval mode (`if self.training:`)"
)


def masked_outputs(module: nn.Module, example: Inputs, keep: np.ndarray, trace: Trace) -> list[Tensor]:
    """Outputs of the whole model, whose channels were traced, with what goes zeroed at its consumers' inputs.

    Statistics over channels (LayerNorm, RMSNorm, GroupNorm, means) are taken over the channels that stay, since that is
    what a layer with fewer channels computes.
    """
    return tensors_of(run(module, example, keep=keep, attention=trace.attention, like=trace)[1])


def tensors_of(outputs: Any) -> list[Tensor]:
    """All tensors of a model's outputs, in order."""
    from ..dependency.tracer import _open

    return [leaf for leaf in pytree.tree_leaves(_open(outputs)) if isinstance(leaf, Tensor)]


def largest_difference(left: list[Tensor], right: list[Tensor]) -> float:
    """Largest absolute difference over the largest finite absolute value; infinite where shapes differ.

    Equal infinities (an output that masks) differ by nothing.
    """
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right, strict=True)):
        return float("inf")
    pairs = [(_wide(a), _wide(b)) for a, b in zip(left, right, strict=True) if a.numel()]
    scale = max((float(torch.where(torch.isfinite(a), a, 0).abs().max()) for a, _ in pairs), default=0.0) or 1.0
    gaps = [float(torch.where(a == b, 0, a - b).abs().max()) for a, b in pairs]
    worst = max(gaps, default=0.0) / scale if all(gap == gap for gap in gaps) else float("nan")
    return worst if worst == worst else float("inf")


def double_copy(module: nn.Module) -> nn.Module:
    """A copy in float64."""
    return copy_in(module, torch.float64)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128) if tensor.is_complex() else tensor.double()


def difference(whole: nn.Module, example: Inputs, graph: Graph, keep: np.ndarray) -> tuple[float, str]:
    """Cut a copy of a model and compare it with the masked whole, both under the same random seed.

    Args:
        whole: the uncut model, in the precision to compare in (`copy_in`).
        example: inputs.
        graph: the model's graph.
        keep: which ids stay, (ids,) bool.
    Returns:
        the largest relative difference (infinite when the cut model does not run), and why it is infinite or, where
        the two draw unlike many random numbers, why it may be large.
    """
    example = fit_inputs(whole, example)
    small = copy_module(whole)
    cut(small, graph, keep)
    try:
        with torch.no_grad(), same_draws():
            outputs = tensors_of(call(small, example))
            drawn = random_states()
    except Exception as error:  # any failure of foreign code means that this cut does not fit
        return float("inf"), f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    with same_draws():
        masked = masked_outputs(whole, example, keep, graph.trace)
        noise = "" if random_states() == drawn else NOISE
    if any(tensor.numel() for tensor in outputs):
        gap = largest_difference(masked, outputs)
        return gap, noise if gap != float("inf") else "outputs have another shape or are not finite"
    of_masked = layer_outputs(whole, lambda: masked_outputs(whole, example, keep, graph.trace))
    gap, reason = _layers_difference(of_masked, layer_outputs(small, lambda: call(small, example)))
    return gap, reason or noise


def layer_outputs(module: nn.Module, forward: Callable[[], Any]) -> dict[tuple[str, int], Tensor]:
    """What every layer without children puts out during a run: (name, how often it ran before) -> output.

    Runs draw the same random numbers.
    """
    found: dict[tuple[str, int], Tensor] = {}
    runs: Counter[str] = Counter()

    def keep(name: str, _given: tuple, _named: dict[str, Any], output: Any) -> None:
        if isinstance(output, Tensor):
            found[name, runs[name]] = output.detach().clone()
            runs[name] += 1

    layers = [name for name, layer in module.named_modules() if not any(layer.children())]
    with torch.no_grad(), same_draws(), watch_calls(module, keep, layers):
        forward()
    return found


def _layers_difference(left: dict[tuple[str, int], Tensor], right: dict[tuple[str, int], Tensor]) -> tuple[float, str]:
    """Where the outputs are empty (no box found), layers that lost no outputs are compared instead."""
    same = [key for key in left if key in right and left[key].shape == right[key].shape and left[key].numel()]
    if left.keys() != right.keys() or not same:
        return float("inf"), "the outputs are empty on the example input; give one on which the model finds something"
    gap, layer = max((largest_difference([left[key]], [right[key]]), key[0]) for key in same)
    return gap, "" if gap != float("inf") else f"the output of {layer} is not finite"
