"""One set of weights for every network of a space: each network borrows slices of it, and gives them back trained.

Source: Pham et al., "Efficient Neural Architecture Search via Parameter Sharing", ICML 2018, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...model.chain import Chain, ConvUnit, SeparableUnit

#: layers with the slot whose shared weights they use; a pool has none
Placed = Sequence[tuple[int | None, dict[str, Any]]]


class SharedWeights(nn.Module):
    """The largest layer of each kind for each slot; a narrower one uses its first channels.

    Args:
        choices: (operation, kernel) of the layers that may stand in a slot.
        slots: how many layers there may be.
        width: the largest.
        in_channels: of the images.
        num_classes: size of the output.
    """

    def __init__(
        self, choices: Sequence[tuple[str, int]], slots: int, width: int, in_channels: int, num_classes: int
    ):  # fmt: skip
        super().__init__()
        kinds = {"conv": ConvUnit, "separable": SeparableUnit}
        widest = max(width, in_channels)
        self.slots = nn.ModuleList(
            nn.ModuleDict({f"{op}{kernel}": kinds[op](widest, width, kernel) for op, kernel in choices})
            for _ in range(slots)
        )
        self.classifier = nn.Linear(width, num_classes)

    @torch.no_grad()
    def lend(self, net: Chain, network: Placed) -> None:
        """Copy the slices that a chain's layers use into the chain."""
        for own, shared in self._pairs(net, network):
            own.copy_(shared)

    @torch.no_grad()
    def take_back(self, net: Chain, network: Placed) -> None:
        """Copy a chain's weights into the slices that its layers use."""
        for own, shared in self._pairs(net, network):
            shared.copy_(own)

    def _pairs(self, net: Chain, network: Placed) -> Iterator[tuple[Tensor, Tensor]]:
        """Each tensor of a chain with the slice that stands for it: the first of every dimension."""
        for unit, (slot, layer) in zip(net.layers, network, strict=True):
            if slot is not None:
                yield from _sliced(unit, self.slots.get_submodule(f"{slot}.{layer['op']}{layer['kernel']}"))
        yield from _sliced(net.classifier, self.classifier)


def _sliced(own: nn.Module, shared: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    whole = shared.state_dict()
    for name, tensor in own.state_dict().items():
        yield tensor, whole[name][tuple(slice(size) for size in tensor.shape)]
