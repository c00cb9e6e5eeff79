"""Numbering the inner units of experts by importance, so that one cut takes of each expert what it needs least.

A width is cut at the same places of all experts, whose units have nothing in common but their places. In which order an
expert holds its units changes nothing that it computes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....analysis.calibration.hooks import stream
from ....analysis.calibration.routed import routed_states
from ....core.tensors.dtypes import widened
from ....core.types import Loaded
from ....model.libraries.experts import inner_states, is_experts, matrix_of, projections
from ....training.context import Context


class InnerMagnitudes:
    """Sums of what the inner units of experts give, over the tokens that are routed to each; (experts, inner)."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    @torch.no_grad()
    def look(self, layer: nn.Module, inputs: tuple, _output: object) -> None:
        """Take in one call of the experts."""
        states, numbers = inputs[0], inputs[1]
        stack = getattr(layer, projections(layer)[1])
        found = torch.stack([
            widened(inner_states(layer, expert, routed_states(states, numbers, expert))).abs().sum(0).double()
            for expert in range(len(stack))
        ])  # fmt: skip
        self.sums = found if self.sums is None else self.sums + found


def align_experts(loaded: Loaded, samples: int, context: Context) -> int:
    """Renumber every expert's inner units from the most to the least important, in place.

    A unit's importance is the mean size of what it gives on its expert's own tokens, where there are data, times the
    norm of the weights that read it; without data the norm of all its weights.

    Returns:
        how many experts there are.
    """
    layers = {name: one for name, one in loaded.module.named_modules() if _renumberable(one)}
    watched = {name: InnerMagnitudes() for name in layers}
    if layers and context.data is not None:
        batches = context.calibration_batches(samples)
        stream(loaded.module, batches, {name: one.look for name, one in watched.items()}, context.device)
    for name, layer in layers.items():
        for expert in range(_count(layer)):
            sums = watched[name].sums
            order = unit_importance(layer, expert, None if sums is None else sums[expert]).argsort(
                descending=True, stable=True
            )
            renumber_units(layer, expert, order)
    return sum(map(_count, layers.values()))


def _renumberable(module: nn.Module) -> bool:
    """Whether gates and values of a module's experts stand one half after the other, in floats."""
    if not is_experts(module) or not all(name in module._parameters for name in projections(module)):
        return False
    return not module.has_gate or bool(getattr(module, "is_concatenated", True))


def _count(module: nn.Module) -> int:
    return len(getattr(module, projections(module)[1]))


def unit_importance(module: nn.Module, expert: int, magnitudes: Tensor | None) -> Tensor:
    """Scores of an expert's inner units, (inner,)."""
    into, out_of = (matrix_of(module, name, expert).detach() for name in projections(module))
    reading = widened(out_of).norm(dim=0)
    if magnitudes is not None and float(magnitudes.sum()) > 0:
        return magnitudes.to(reading) * reading
    halves = widened(into).reshape(-1, len(reading), into.shape[1])
    return (halves.square().sum((0, 2)) + reading.square()).sqrt()


@torch.no_grad()
def renumber_units(module: nn.Module, expert: int, order: Tensor) -> None:
    """Put an expert's inner units into an order; what it computes stays."""
    into, out_of = projections(module)
    width = len(order)
    rows = torch.cat([order + start for start in range(0, matrix_of(module, into, expert).shape[0], width)])
    matrix = matrix_of(module, into, expert)
    matrix.copy_(matrix[rows])
    matrix = matrix_of(module, out_of, expert)
    matrix.copy_(matrix[:, order])
    if getattr(module, "has_bias", False):
        bias = getattr(module, f"{into}_bias")[expert]
        bias.copy_(bias[rows])
