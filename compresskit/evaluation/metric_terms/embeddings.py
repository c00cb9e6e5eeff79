"""Metrics of embeddings: the angle to the original's, and whether the nearest texts are the right ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError
from ...core.types import main_output

_ROWS = 512  # whose similarities to all others are computed at once


def embeddings(outputs: Any, inputs: Any) -> Tensor:
    """One vector an example.

    Args:
        outputs: what the model returned; its main tensor is (batch, features), states (batch, length, features), or
            maps (batch, channels, height, width).
        inputs: of the batch; where they hold an attention_mask, only the positions that it marks count.
    Returns:
        (batch, features): the mean over positions.
    """
    states = main_output(outputs).float()
    if states.dim() == 4:
        return states.mean((2, 3))
    if states.dim() != 3:
        return states
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if mask is None or mask.shape != states.shape[:2]:
        return states.mean(1)
    weights = mask.to(states)[..., None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def cosine(outputs: Tensor, original_outputs: Tensor) -> Tensor:
    """Cosine of each example's embedding and the original model's; (batch, features) twice -> (batch,)."""
    return F.cosine_similarity(outputs, original_outputs, dim=-1)


vars(cosine).update(compares_original=True, embeds=True)


class _Neighbours:
    """Keeps embeddings, and judges each example by those that lie nearest to its own.

    Args:
        k: how many of the nearest are looked at.
    """

    embeds = True
    scale = "share"

    def __init__(self, k: int):
        if k < 1:
            raise InputError(f"metric_arg k must be 1 or more, got {k}")
        self._k = k
        self._found: list[Tensor] = []
        self._wanted: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take embeddings (batch, features) in, and what they are judged by."""
        self._found.append(outputs.detach().float().cpu())
        self._wanted.append(targets.detach().cpu())

    def compute(self) -> float:
        """The mean over examples."""
        return float(self.values().mean())

    def bootstrap(self) -> tuple[int, Callable[[Tensor], float]]:
        """Examples, and the mean of some of them; who is nearest to whom stays."""
        values = self.values()
        return len(values), lambda chosen: float(values[chosen].mean())

    def values(self) -> Tensor:
        """One value an example, (examples,)."""
        raise NotImplementedError

    def _nearest(self, vectors: Tensor) -> Tensor:
        return nearest(vectors, min(self._k, len(vectors) - 1))


class Retrieval(_Neighbours):
    """Share of examples that have one of the same target among the k that lie nearest to them."""

    def __init__(self, k: int = 1):
        super().__init__(k)

    def values(self) -> Tensor:
        """0 or 1 an example."""
        targets = torch.cat(self._wanted)
        if targets.dim() != 1 or targets.is_floating_point():
            raise InputError("metric 'retrieval' needs a class an example: texts of one class belong together")
        return (targets[self._nearest(torch.cat(self._found))] == targets[:, None]).any(1).float()


class KeptNeighbours(_Neighbours):
    """Share of the k examples nearest to each by the original's embeddings that are so by the model's."""

    compares_original = True

    def __init__(self, k: int = 10):
        super().__init__(k)

    def values(self) -> Tensor:
        """A share an example."""
        mine, wanted = self._nearest(torch.cat(self._found)), self._nearest(torch.cat(self._wanted).float())
        return (mine[:, :, None] == wanted[:, None, :]).any(2).float().mean(1)


def nearest(vectors: Tensor, count: int) -> Tensor:
    """The other examples with the largest cosine to each.

    Args:
        vectors: (examples, features).
        count: below the number of examples.
    Returns:
        (examples, count) positions, the nearest first.
    """
    unit = F.normalize(vectors, dim=-1)
    found = []
    for start in range(0, len(unit), _ROWS):
        similar = unit[start : start + _ROWS] @ unit.T
        rows = torch.arange(len(similar))
        similar[rows, rows + start] = -torch.inf
        found.append(similar.topk(count, dim=-1).indices)
    return torch.cat(found)
