"""How much whole experts of a mixture matter, by the tokens that are routed to them and what they make of these."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.tensors.dtypes import widened
from ...model.libraries.experts import inner_states, matrix_of, projections


class RoutedOutputs:
    """What one layer's experts give for calibration data.

    Attributes:
        tokens: tokens seen.
        counts: tokens routed to each expert, (experts,) float64.
        norms: sum over these of the router's weight times the L2 norm of what the expert gives, (experts,) float64.
    """

    counts: Tensor
    norms: Tensor

    def __init__(self) -> None:
        self.tokens = 0

    @torch.no_grad()
    def look(self, layer: nn.Module, inputs: tuple, _output: object) -> None:
        """Take in one call of the experts: (states, expert numbers, router's weights)."""
        states, numbers, weights = inputs[0], inputs[1], inputs[2]
        _, out_of = projections(layer)
        experts = len(getattr(layer, out_of))
        if not self.tokens:
            self.counts, self.norms = (torch.zeros(experts, dtype=torch.float64) for _ in range(2))
        self.tokens += len(states)
        for expert in range(experts):
            rows, places = torch.where(numbers == expert)
            if not len(rows):
                continue
            bias = getattr(layer, f"{out_of}_bias")[expert] if getattr(layer, "has_bias", False) else None
            given = F.linear(inner_states(layer, expert, states[rows]), matrix_of(layer, out_of, expert), bias)
            lengths = widened(given).norm(dim=1) * widened(weights[rows, places])
            self.counts[expert] += len(rows)
            self.norms[expert] += float(lengths.sum())


def contribution(routed: RoutedOutputs) -> Tensor:
    """Norm of what an expert adds to a layer's output, averaged over all tokens: how often times how much."""
    return routed.norms / max(routed.tokens, 1)


def router_weighted(routed: RoutedOutputs) -> Tensor:
    """The same averaged over the tokens that are routed to the expert.

    Source: Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression", 2025, eq. 9.
    """
    return routed.norms / routed.counts.clamp(min=1)


def frequency(routed: RoutedOutputs) -> Tensor:
    """Share of the tokens that are routed to an expert."""
    return routed.counts / max(routed.tokens, 1)
