"""The loss against the data's own targets, whatever kind they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import InputError, first_line
from ..core.tensors.batches import count_examples
from ..core.tensors.dtypes import widened
from ..core.tensors.modules import evaluating
from ..core.types import Inputs, call, main_output, to_device
from ..data.transforms import MixedTargets
from .tables import LOSSES

#: (outputs, targets) -> scalar; see `tables.LOSSES`
Loss = Callable[..., Tensor]


def task_loss(outputs: Any, targets: Any, label_smoothing: float = 0.0, loss: Loss | None = None) -> Tensor:
    """The loss against the data's own targets.

    Args:
        outputs: what the model returned.
        targets: what the data gives, or MixedTargets of it.
        label_smoothing: share of the target spread over all classes.
        loss: a row of LOSSES, loaded; None is `auto`.
    Raises:
        InputError: if the shapes do not fit, or a loss returns no scalar or knows no label smoothing.
    """
    if isinstance(targets, MixedTargets):
        first, second = (task_loss(outputs, part, label_smoothing, loss) for part in (targets.first, targets.second))
        return targets.share * first + (1 - targets.share) * second
    if loss is None:
        return auto(outputs, targets, label_smoothing)
    if not label_smoothing:
        value = loss(outputs, targets)
    elif "label_smoothing" in inspect.signature(loss).parameters:
        value = loss(outputs, targets, label_smoothing=label_smoothing)
    else:
        raise InputError(f"label_smoothing would be ignored: loss {loss.__name__!r} does not take it; leave it out")
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"a task loss must return a scalar tensor, the mean over the batch, got {got}")
    return value.reshape(())


def auto(outputs: Any, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy for whole-number targets, mean squared error for others.

    Args:
        outputs: what the model returned; its main tensor is as the two take it.
        targets: integer classes or floats.
        label_smoothing: of the cross-entropy.
    Raises:
        InputError: if the shapes do not fit.
    """
    if targets.is_floating_point():
        return squared_error(outputs, targets)
    return cross_entropy(outputs, targets, label_smoothing)


def cross_entropy(outputs: Any, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits against classes.

    Args:
        outputs: what the model returned; its main tensor is (batch, classes), (batch, length, classes) or
            (batch, classes, height, width).
        targets: integer classes, (batch, ...).
        label_smoothing: share of the target spread over all classes.
    Raises:
        InputError: if the shapes do not fit.
    """
    logits = widened(main_output(outputs))
    with _fitting(logits, targets):
        if logits.dim() == targets.dim() + 1 and logits.shape[:-1] == targets.shape:
            # classes last, as in language models and plain classifiers
            logits, targets = logits.flatten(0, -2), targets.flatten()
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """Mean squared error; the main output has as many elements as the targets.

    Raises:
        InputError: if the shapes do not fit.
    """
    numbers = widened(main_output(outputs))
    with _fitting(numbers, targets):
        return F.mse_loss(numbers.reshape(targets.shape), targets.to(numbers.dtype))


@contextmanager
def _fitting(outputs: Tensor, targets: Tensor) -> Iterator[None]:
    shapes = f"targets of shape {list(targets.shape)} do not fit outputs of shape {list(outputs.shape)}"
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(f"{shapes}: {first_line(error)}") from error


def make_loss(name: str) -> Loss | None:
    """The loss that a name stands for: a row of LOSSES, or a user's own; None for `auto`.

    Raises:
        InputError: naming the nearest valid name.
    """
    if name == "auto":
        return None
    try:
        return LOSSES.load(name)
    except ValueError as error:
        raise InputError(str(error)) from error


def plain_objective(
    label_smoothing: float, module: nn.Module, inputs: Inputs, targets: Any, loss: Loss | None = None
) -> Tensor:
    """The objective of ordinary training."""
    return task_loss(call(module, inputs), targets, label_smoothing, loss)


@torch.no_grad()
def mean_loss(module: nn.Module, batches: Iterable, device: torch.device, loss: Loss | None = None) -> float:
    """The task loss over all examples of some batches, the module in eval mode."""
    total, count = 0.0, 0
    with evaluating(module):
        for inputs, targets in batches:
            value = task_loss(call(module, to_device(inputs, device)), to_device(targets, device), loss=loss)
            examples = count_examples(targets)
            total, count = total + float(value) * examples, count + examples
    return total / count
