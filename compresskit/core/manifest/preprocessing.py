"""What a model declares of its inputs, as strangers write it: only what can be applied is taken."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from ..errors import InputError


def declared_shape(shape: Any) -> tuple[int, ...] | None:
    """A list or tuple of positive whole numbers as a shape; None for anything else."""
    if not isinstance(shape, list | tuple) or not shape:
        return None
    sizes = [int(size) for size in shape if isinstance(size, Integral) and not isinstance(size, bool)]
    return tuple(sizes) if len(sizes) == len(shape) and min(sizes) > 0 else None


def declared_normalization(mean: Any, std: Any, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel; both empty unless both are lists of as many finite numbers.

    Args:
        mean: whatever was found under that name.
        std: the same.
        where: what the error calls the place.
    Raises:
        InputError: if `std` holds a zero.
    """
    means, stds = _numbers(mean), _numbers(std)
    if len(means) != len(stds):
        return (), ()
    if 0 in stds:
        raise InputError(f"{where} names a standard deviation of zero, by which images cannot be divided: {list(stds)}")
    return means, stds


def _numbers(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, Real) for value in values):
        return ()
    try:
        numbers = tuple(map(float, values))
    except OverflowError:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()
