"""Second moments of what layers read, from one run over calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.calibration.hooks import watch
from ...core.tensors.dtypes import widened
from ...core.types import Inputs, call
from ..recovery.sampled_outputs import patches, positions_of, refittable, sampled

#: layers that read more columns than this are not refitted: their second moments alone would take 300 MB
MOST_COLUMNS = 6144


@dataclass
class Moments:
    """Moments of a layer's input patches, columns in the order of the flattened weight.

    Attributes:
        gram: sum of outer products, (columns, columns).
        total: sum, (columns,).
        count: number of patches.
    """

    gram: Tensor
    total: Tensor
    count: int = 0

    def centered(self) -> Tensor:
        """Covariance, (columns, columns)."""
        mean = self.total / self.count
        return self.gram / self.count - torch.outer(mean, mean)


def measurable(layer: nn.Module) -> bool:
    """Whether the moments of a layer's input can be held."""
    return refittable(layer) and layer.weight[0].numel() <= MOST_COLUMNS


@torch.no_grad()
def input_moments(
    module: nn.Module, names: Sequence[str], batches: Iterable[Inputs], *, points: int, generator: torch.Generator
) -> dict[str, Moments]:
    """Moments of what layers read.

    Args:
        module: the model, in eval mode.
        names: layers (`measurable`).
        batches: calibration inputs.
        points: output positions sampled from each example.
        generator: draws the positions.
    """
    found: dict[str, Moments] = {}

    def watcher(name: str):
        def look(layer: nn.Module, inputs: tuple, output: Any) -> None:
            x = widened(patches(layer, inputs[0], sampled(positions_of(layer, output), points, generator)))
            if name not in found:
                dtype = torch.float64 if x.shape[1] <= 1024 else torch.float32
                found[name] = Moments(
                    x.new_zeros(x.shape[1], x.shape[1], dtype=dtype), x.new_zeros(x.shape[1], dtype=dtype)
                )
            moments = found[name]
            moments.gram += (x.T @ x).to(moments.gram.dtype)
            moments.total += x.sum(0).to(moments.total.dtype)
            moments.count += len(x)

        return look

    with watch(module, {name: watcher(name) for name in names}):
        for inputs in batches:
            call(module, inputs)
    return found
