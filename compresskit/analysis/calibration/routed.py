"""What experts of a mixture read: moments of the tokens that are routed to each, by projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.tensors.dtypes import widened
from ...model.libraries.experts import inner_states, projections
from .moments import MomentSums, Precision
from .positions import Sampler


def routed_states(states: Tensor, numbers: Tensor, expert: int) -> Tensor:
    """The states that are routed to an expert.

    Args:
        states: (tokens, width).
        numbers: experts of each token, (tokens, experts of a token).
        expert: which one.
    Returns:
        (routed tokens, width).
    """
    return states[(numbers == expert).any(-1)]


class RoutedMoments:
    """Second moments of what every expert's projections read, while data runs through its model.

    Attributes:
        sums: projection -> one entry an expert; experts to which nothing was routed have counted nothing.

    Args:
        sample: which of an expert's tokens in a batch count.
        precision: number types.
    """

    def __init__(self, sample: Sampler, precision: Precision = Precision()):
        self._sample, self._precision = sample, precision
        self.sums: dict[str, list[MomentSums]] = {}

    @torch.no_grad()
    def look(self, layer: nn.Module, inputs: tuple, _output: object) -> None:
        """Take in one call of the experts."""
        states, numbers = inputs[0].detach(), inputs[1]
        into, out_of = projections(layer)
        count = len(getattr(layer, into))
        if not self.sums:
            self.sums = {name: [MomentSums(self._precision) for _ in range(count)] for name in (into, out_of)}
        for expert in range(count):
            own = routed_states(states, numbers, expert)
            positions = self._sample(1, len(own))
            own = own if positions is None else own[positions]
            if len(own):
                self.sums[into][expert].update(widened(own)[:, None])
                self.sums[out_of][expert].update(widened(inner_states(layer, expert, own))[:, None])
