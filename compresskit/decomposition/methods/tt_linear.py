"""A linear layer on pieces of its input: the link that tensor-train chains of linear layers are made of."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ...core.tensors.modules import unfilled


class FoldedLinear(nn.Module):
    """Applies one small linear layer to each of `repeats` pieces of the input, then moves outputs to the front.

    With pieces p and the small layer's outputs (r, o), the output is ordered (o, p, r), which the next link of a chain
    cuts into its own pieces.

    Args:
        in_channels: of one piece.
        out_channels: of one piece, r * o.
        repeats: pieces.
        outer: o, the outputs that move in front.
        bias: whether something is added to the whole output.
    """

    def __init__(
        self, in_channels: int, out_channels: int, repeats: int, outer: int, *, bias: bool = False, **place: Any
    ):
        super().__init__()
        self.repeats, self.outer = repeats, outer
        linear = unfilled(nn.Linear, in_channels, out_channels, bias=False, **place)
        self.linear = cast(nn.Linear, linear)
        self.bias = nn.Parameter(self.linear.weight.new_empty(repeats * out_channels)) if bias else None

    @property
    def weight(self) -> Tensor:
        """The small layer's weight, (r * o, in_channels)."""
        return self.linear.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., repeats * in_channels) -> (..., repeats * out_channels)."""
        pieces = inputs.unflatten(-1, (self.repeats, -1))
        outputs = reorder(self.linear(pieces), self.outer)
        return outputs if self.bias is None else outputs + self.bias


def reorder(outputs: Tensor, outer: int) -> Tensor:
    """(..., p, r * o) -> (..., o * p * r)."""
    return outputs.unflatten(-1, (-1, outer)).movedim(-1, -3).flatten(-3)


def unfolded(repeats_and_outer: list[tuple[int, int]], factors: list[Tensor]) -> Tensor:
    """The matrix (out, in) that a chain of folded layers computes.

    Args:
        repeats_and_outer: of each link, in calling order.
        factors: the links' weights.
    """
    first_repeats, _ = repeats_and_outer[0]
    rows = torch.eye(first_repeats * factors[0].shape[1], dtype=factors[0].dtype, device=factors[0].device)
    for (repeats, outer), factor in zip(repeats_and_outer, factors, strict=True):
        rows = reorder(rows.unflatten(-1, (repeats, -1)) @ factor.mT, outer)
    return rows.mT
