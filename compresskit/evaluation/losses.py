"""The loss against the data's own targets, whatever kind they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import InputError, first_line
from ..core.tensors.dtypes import widened
from ..core.tensors.modules import evaluating
from ..core.types import Inputs, call, main_output, to_device
from ..data.transforms import MixedTargets


def task_loss(outputs: Any, targets: Any, label_smoothing: float = 0.0) -> Tensor:
    """The loss against the data's own targets: cross-entropy for classes, mean squared error for numbers.

    Args:
        outputs: what the model returned; its main tensor is (batch, classes), (batch, length, classes),
            (batch, classes, height, width), or numbers.
        targets: integer classes (batch, ...), floats, or MixedTargets of either.
        label_smoothing: share of the target spread over all classes.
    Raises:
        InputError: if the shapes do not fit.
    """
    if isinstance(targets, MixedTargets):
        first, second = (task_loss(outputs, part, label_smoothing) for part in (targets.first, targets.second))
        return targets.share * first + (1 - targets.share) * second
    logits = widened(main_output(outputs))
    try:
        if targets.is_floating_point():
            return F.mse_loss(logits.reshape(targets.shape), targets.to(logits.dtype))
        if logits.dim() == targets.dim() + 1 and logits.shape[:-1] == targets.shape:
            # classes last, as in language models and plain classifiers
            return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), label_smoothing=label_smoothing)
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"targets of shape {list(targets.shape)} do not fit outputs of shape {list(logits.shape)}: "
            f"{first_line(error)}"
        ) from error


def plain_objective(label_smoothing: float, module: nn.Module, inputs: Inputs, targets: Any) -> Tensor:
    """The objective of ordinary training."""
    return task_loss(call(module, inputs), targets, label_smoothing)


@torch.no_grad()
def mean_loss(module: nn.Module, batches: Iterable, device: torch.device) -> float:
    """The task loss over all examples of some batches, the module in eval mode."""
    total, count = 0.0, 0
    with evaluating(module):
        for inputs, targets in batches:
            loss = task_loss(call(module, to_device(inputs, device)), to_device(targets, device))
            total, count = total + float(loss) * len(targets), count + len(targets)
    return total / count
