"""Losses against classes: cross-entropy of one class each, binary cross-entropy of several labels, Dice of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError
from ...core.tensors.dtypes import widened
from ...core.types import main_output
from .shapes import IGNORED, class_axis, classes_last, fitting


def cross_entropy(
    outputs: Any,
    targets: Tensor,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    ignore_index: int = IGNORED,
) -> Tensor:
    """Cross-entropy of logits against classes.

    Args:
        outputs: what the model returned; its main tensor is (batch, classes), (batch, length, classes) or
            (batch, classes, height, width).
        targets: integer classes, (batch, ...).
        label_smoothing: share of the target spread over all classes.
        class_weights: one a class; the mean is weighted by them.
        ignore_index: a class that is not counted.
    Raises:
        InputError: if the shapes do not fit, or targets are floats.
    """
    logits = widened(main_output(outputs))
    check_classes(targets, "loss 'ce'", "mse")
    with fitting(logits, targets):
        if logits.dim() == targets.dim() + 1 and class_axis(logits.shape, targets.shape) == targets.dim():
            # classes last, as in language models and plain classifiers
            logits, targets = logits.flatten(0, -2), targets.flatten()
        weights = _weights(class_weights, logits, logits.shape[1]) if logits.dim() > 1 else None
        return F.cross_entropy(
            logits, targets.long(), weights, label_smoothing=label_smoothing, ignore_index=ignore_index
        )


def binary_cross_entropy(outputs: Any, targets: Tensor, class_weights: Sequence[float] | None = None) -> Tensor:
    """Binary cross-entropy of one logit a label.

    Args:
        outputs: what the model returned; its main tensor has as many elements as the targets.
        targets: 0 or 1, or probabilities, (batch, labels) or (batch, ...).
        class_weights: one a label; its positive examples count that many times.
    Raises:
        InputError: if the shapes do not fit, or targets lie outside [0, 1].
    """
    logits = widened(main_output(outputs))
    with fitting(logits, targets):
        wanted = targets.to(logits.dtype)
        if wanted.numel() and (wanted.amin() < 0 or wanted.amax() > 1):
            raise InputError(
                f"loss 'bce' takes targets from 0 to 1, got {float(wanted.amin()):g} to {float(wanted.amax()):g}; "
                "classes take ce"
            )
        weights = _weights(class_weights, logits, targets.shape[-1])
        return F.binary_cross_entropy_with_logits(logits.reshape(targets.shape), wanted, pos_weight=weights)


def dice(outputs: Any, targets: Tensor, smooth: float = 1.0, ignore_index: int = IGNORED) -> Tensor:
    """One minus the soft Dice coefficient over the batch, the mean over classes.

    Args:
        outputs: what the model returned; its main tensor is (batch, classes, ...), or (batch, 1, ...) for one mask.
        targets: integer classes (batch, ...); for one mask 0 and 1, (batch, ...) or (batch, 1, ...).
        smooth: added to numerator and denominator, so that an absent class costs nothing.
        ignore_index: a class that is not counted.
    Raises:
        InputError: if the shapes do not fit.
    Source: Milletari, Navab & Ahmadi, "V-Net", 3DV 2016, section 3.
    """
    logits = widened(main_output(outputs))
    with fitting(logits, targets):
        if logits.dim() > 1 and logits.shape[1] == 1:
            probabilities = logits.sigmoid().flatten()[:, None]
            counted = targets.flatten() != ignore_index
            wanted = targets.flatten()[:, None].to(logits.dtype)
        else:
            check_classes(targets, "loss 'dice'", "bce")
            probabilities = classes_last(logits, targets).softmax(-1).flatten(0, -2)
            counted = targets.flatten() != ignore_index
            wanted = F.one_hot(targets.flatten().long() * counted, probabilities.shape[-1]).to(logits.dtype)
        probabilities, wanted = probabilities * counted[:, None], wanted * counted[:, None]
        overlap, size = (probabilities * wanted).sum(0), probabilities.sum(0) + wanted.sum(0)
        return 1 - ((2 * overlap + smooth) / (size + smooth)).mean()


def check_classes(targets: Tensor, what: str, instead: str) -> None:
    """Refuse floats as classes.

    Raises:
        InputError: naming what takes classes, and what takes floats.
    """
    if targets.is_floating_point():
        raise InputError(
            f"{what} compares classes, and the targets are floats; choose {instead}, or give whole numbers as integers"
        )


def _weights(given: Sequence[float] | None, logits: Tensor, classes: int) -> Tensor | None:
    if given is None:
        return None
    if len(given) != classes:
        raise InputError(f"class_weights holds {len(given)} numbers for {classes} classes; give one a class")
    return torch.tensor(list(given), dtype=logits.dtype, device=logits.device)
