"""Losses against numbers: squared, absolute and Huber's error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ...core.tensors.dtypes import widened
from ...core.types import main_output
from .shapes import fitting


def squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """Mean squared error; the main output has as many elements as the targets.

    Raises:
        InputError: if the shapes do not fit.
    """
    return _error(F.mse_loss, outputs, targets)


def absolute_error(outputs: Any, targets: Tensor) -> Tensor:
    """Mean absolute error; the main output has as many elements as the targets.

    Raises:
        InputError: if the shapes do not fit.
    """
    return _error(F.l1_loss, outputs, targets)


def huber(outputs: Any, targets: Tensor, delta: float = 1.0) -> Tensor:
    """Half the squared error up to `delta`, linear beyond.

    Args:
        outputs: what the model returned; its main tensor has as many elements as the targets.
        targets: numbers, (batch, ...).
        delta: where the loss becomes linear, in units of the targets.
    Raises:
        InputError: if the shapes do not fit.
    Source: Huber, "Robust Estimation of a Location Parameter", 1964.
    """
    return _error(F.huber_loss, outputs, targets, delta=delta)


def _error(function: Callable[..., Tensor], outputs: Any, targets: Tensor, **arguments: float) -> Tensor:
    numbers = widened(main_output(outputs))
    with fitting(numbers, targets):
        return function(numbers.reshape(targets.shape), targets.to(numbers.dtype), **arguments)
