"""How outputs and targets lie against each other: which axis holds the classes, and errors that name both shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from ...core.errors import InputError, first_line

#: targets that no loss or metric counts
IGNORED = -100


@contextmanager
def fitting(outputs: Tensor, targets: Tensor) -> Iterator[None]:
    """While open, what torch raises is an InputError that says both shapes."""
    shapes = f"targets of shape {list(targets.shape)} do not fit outputs of shape {list(outputs.shape)}"
    try:
        yield
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(f"{shapes}: {first_line(error)}") from error


def class_axis(shape: tuple[int, ...], targets: tuple[int, ...] | None = None) -> int:
    """The axis of logits that holds the classes: the last, or 1 of maps (batch, classes, ...).

    Args:
        shape: of the logits; where both axes are possible, four dimensions and more are maps.
        targets: shape of the classes, which decides where it is known.
    """
    possible = [1, len(shape) - 1] if len(shape) > 3 else [len(shape) - 1, 1]
    if targets is not None and len(targets) + 1 == len(shape):
        for axis in possible:
            if (*shape[:axis], *shape[axis + 1 :]) == tuple(targets):
                return axis
    return possible[0]


def classes_last(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits with their classes on the last axis: (batch, ..., classes) for targets (batch, ...)."""
    axis = class_axis(tuple(logits.shape), tuple(targets.shape))
    return logits.movedim(axis, -1)
