"""Calibration: statistics of many layers in one run over the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ...core.types import Inputs
from .hooks import Watcher, stream


class Statistic(Protocol):
    """What is taken in of one layer, call by call; memory does not grow with the data."""

    def update(self, layer: nn.Module, inputs: Tensor, output: Tensor, /) -> None:
        """Take in one call of the layer."""


Taken = TypeVar("Taken", bound=Statistic)


def collect(
    root: nn.Module, statistics: Mapping[str, Taken], batches: Iterable[Inputs], device: torch.device | None = None
) -> dict[str, Taken]:
    """Run data through a model in eval mode and feed each layer's statistic.

    Args:
        root: the model.
        statistics: by layer name. Layers that read the same tensors may share one, which the first of them feeds.
        batches: batches of inputs.
        device: where batches are moved first; None leaves them where they are.
    Returns:
        the statistics of the layers that the data reached.
    """
    reached: set[int] = set()

    def watcher(statistic: Taken) -> Watcher:
        def look(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
            reached.add(id(statistic))
            statistic.update(layer, inputs[0].detach(), output.detach())

        return look

    first = {id(one): name for name, one in reversed(list(statistics.items()))}
    stream(root, batches, {name: watcher(one) for name, one in statistics.items() if first[id(one)] == name}, device)
    return {name: one for name, one in statistics.items() if id(one) in reached}
