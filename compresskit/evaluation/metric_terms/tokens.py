"""Metrics of predicted tokens: perplexity, and divergence from the original's predictions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..loss_terms.classification import check_classes
from ..loss_terms.shapes import IGNORED, classes_last, fitting


class Perplexity:
    """exp of the mean cross-entropy of all tokens that count; its interval comes from resampled examples.

    Args:
        ignore_index: a token that is not counted.
    """

    higher_is_better = False

    def __init__(self, ignore_index: int = IGNORED):
        self._ignored = ignore_index
        self._losses: list[Tensor] = []
        self._counts: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch in: logits (batch, length, vocabulary), tokens (batch, length)."""
        check_classes(targets, "metric 'perplexity'", "mse")
        with fitting(outputs, targets):
            logits = classes_last(outputs, targets)
            losses = [
                F.cross_entropy(
                    row.reshape(-1, row.shape[-1]), wanted.reshape(-1), ignore_index=self._ignored, reduction="sum"
                )
                for row, wanted in zip(logits, targets, strict=True)
            ]  # one example at a time: no second copy of all logits
        self._losses.append(torch.stack(losses).double().cpu())
        self._counts.append((targets != self._ignored).reshape(len(targets), -1).sum(1).double().cpu())

    def compute(self) -> float:
        """Perplexity of all tokens."""
        losses, counts = torch.cat(self._losses), torch.cat(self._counts)
        return _perplexity(float(losses.sum()), float(counts.sum()))

    def bootstrap(self) -> tuple[int, Callable[[Tensor], float]]:
        """Examples, and perplexity of some of them."""
        losses, counts = torch.cat(self._losses), torch.cat(self._counts)
        return len(losses), lambda chosen: _perplexity(float(losses[chosen].sum()), float(counts[chosen].sum()))


def _perplexity(loss: float, count: float) -> float:
    if not count:
        return math.nan
    return math.exp(min(loss / count, 700.0))  # beyond it a float has no number


def divergence(outputs: Tensor, original_outputs: Tensor) -> Tensor:
    """KL(original || model) of the predictions at each position, the mean over the positions of an example.

    Args:
        outputs: logits (batch, ..., classes).
        original_outputs: the original model's, of the same shape.
    Returns:
        (batch,), in nats.
    """
    found = []
    for mine, wanted in zip(outputs, original_outputs, strict=True):
        log_p = wanted.reshape(-1, wanted.shape[-1]).log_softmax(-1)
        log_q = mine.reshape(-1, mine.shape[-1]).log_softmax(-1)
        found.append(F.kl_div(log_q, log_p, reduction="batchmean", log_target=True))
    return torch.stack(found)


vars(divergence).update(compares_original=True, higher_is_better=False)
