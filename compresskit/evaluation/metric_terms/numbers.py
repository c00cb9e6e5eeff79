"""Metrics of numbers: squared and absolute error, explained variance."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...core.errors import InputError
from ..loss_terms.shapes import fitting
from .library import LibraryMetric, torchmetrics


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """(batch, ...), the same -> (batch,), each the mean squared error of one example."""
    outputs = shaped_alike(outputs, targets)
    return (outputs - targets).pow(2).reshape(len(outputs), -1).mean(1)


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """(batch, ...), the same -> (batch,), each the mean absolute error of one example."""
    outputs = shaped_alike(outputs, targets)
    return (outputs - targets).abs().reshape(len(outputs), -1).mean(1)


vars(mse)["higher_is_better"] = vars(mae)["higher_is_better"] = False


def shaped_alike(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs in the shape of targets with as many elements; others are left to fail where they are compared.

    Raises:
        InputError: if one would be stretched over the other: (batch, 1) against (batch,) is no error, (batch, 3) is.
    """
    if outputs.shape == targets.shape:
        return outputs
    with fitting(outputs, targets):
        if len(outputs) != len(targets):
            raise InputError(f"{len(outputs)} outputs stand against {len(targets)} targets")
        return outputs.reshape(targets.shape)


class R2(LibraryMetric):
    """Coefficient of determination, the mean over the numbers of an example."""

    scale = "own"  # below zero for what is worse than the mean
    chance = 0.0

    def make(self, outputs: Tensor, targets: Tensor) -> Any:
        """torchmetrics' R2Score."""
        return torchmetrics("regression.R2Score")()

    def prepare(self, outputs: Tensor, targets: Tensor) -> tuple[Any, ...]:
        """(batch, numbers) twice."""
        flat = shaped_alike(outputs, targets).reshape(len(targets), -1)
        return flat.double(), targets.reshape(len(targets), -1).double()
