"""Bringing features of two models to one shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.errors import ShapeError
from ...core.tensors.randomness import manual_seed


def as_map(feature: Tensor) -> Tensor:
    """A feature as (batch, channels, height, width); tokens become a column, vectors a single place.

    Args:
        feature: (batch, channels, height, width), (batch, tokens, channels) or (batch, channels).
    Raises:
        ShapeError: for any other number of dimensions.
    """
    if feature.dim() == 4:
        return feature.float()
    if feature.dim() == 3:
        return feature.float().transpose(1, 2).unsqueeze(3)
    if feature.dim() == 2:
        return feature.float()[:, :, None, None]
    raise ShapeError(f"a feature must have 2 to 4 dimensions, got shape {list(feature.shape)}")


def pooled_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two feature maps averaged down to the smaller height and width of both."""
    student, teacher = as_map(student), as_map(teacher)
    size = [min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    height, width = size
    mine, theirs = (
        feature if list(feature.shape[2:]) == size else F.adaptive_avg_pool2d(feature, (height, width))
        for feature in (student, teacher)
    )
    return mine, theirs


def vectors(feature: Tensor) -> Tensor:
    """(batch, ...) -> (batch, all the rest)."""
    return feature.float().flatten(1)


Made = TypeVar("Made", bound=nn.Module)


def seeded(seed: int, make: Callable[[], Made]) -> Made:
    """A module whose random weights depend on a seed alone."""
    with torch.random.fork_rng(devices=[]):
        manual_seed(seed)
        return make()
