"""Metrics without labels: how far a model answers as the original does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.tensors.batches import count_examples, tensors_of
from ...core.types import main_output
from ..loss_terms.shapes import class_axis
from .boxes import boxes_of, matched_share
from .classes import counted_mean


def agreement(outputs: Any, original_outputs: Any) -> Tensor:
    """Share of the original's decisions that are kept, of each example.

    Args:
        outputs: logits (batch, classes), (batch, length, classes), maps (batch, classes, height, width), or boxes; one
            logit an example is a decision by its sign.
        original_outputs: the original model's, of the same structure.
    Returns:
        (batch,): 0 or 1 of one decision, else a share of positions or boxes.
    """
    if (boxes := boxes_of(outputs)) is not None:
        theirs = boxes_of(original_outputs)
        if theirs is None:
            raise InputError("metric 'agreement': the model returns boxes, and the original does not")
        return torch.tensor([matched_share(one, other) for one, other in zip(boxes, theirs, strict=True)])
    mine, wanted = main_output(outputs), main_output(original_outputs)
    axis = class_axis(tuple(mine.shape))
    if mine.dim() < 2 or mine.shape[axis] == 1:
        same = (mine > 0) == (wanted > 0)
    else:
        same = mine.argmax(axis) == wanted.argmax(axis)
    return counted_mean(same, torch.ones_like(same))


vars(agreement).update(compares_original=True, whole_outputs=True, scale="share")


def fidelity(outputs: Any, original_outputs: Any) -> Tensor:
    """Relative error of all outputs of an example: the norm of the difference by the norm of the original's.

    Args:
        outputs: tensors (batch, ...) in any structure.
        original_outputs: the original model's, of the same structure.
    Returns:
        (batch,): 0 where nothing changed.
    Raises:
        InputError: if the two do not have the same shapes, as boxes found in images do not.
    """
    count = count_examples(outputs)
    difference, norm = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    mine, wanted = ([t for t in tensors_of(x) if t.is_floating_point()] for x in (outputs, original_outputs))
    if [t.shape for t in mine] != [t.shape for t in wanted] or any(not t.dim() or len(t) != count for t in mine):
        raise InputError("metric 'fidelity' compares outputs of one shape, and these differ; choose agreement")
    for one, other in zip(mine, wanted, strict=True):
        a, b = (part.reshape(count, -1).double().cpu() for part in (one, other))
        # minus infinity marks places that are masked out in both
        counted = torch.isfinite(a) & torch.isfinite(b)
        difference += torch.where(counted, a - b, 0.0).square().sum(1)
        norm += torch.where(counted, b, 0.0).square().sum(1)
    tiny = torch.finfo(torch.float64).tiny
    return (difference / norm.clamp(min=tiny)).sqrt()


vars(fidelity).update(compares_original=True, whole_outputs=True, scale="share", higher_is_better=False)
