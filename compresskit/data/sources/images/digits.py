"""The digits that ship with scikit-learn, as classes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....core.errors import InputError
from ....core.types import Preprocessing
from ...splits.arrays import ArraySplit
from ...splits.base import Splits

_TEST_SHARE = 0.2


def digits(location: str, preprocessing: Preprocessing) -> Splits:
    """The 8x8 digits of scikit-learn, in [0, 1], a fifth of them held out as test."""
    if location:
        raise InputError(f"data 'digits' takes no location, got {location!r}")
    train, test = digits_in_memory()
    return Splits(train, test, num_classes=10)


def digits_in_memory() -> tuple[ArraySplit, ArraySplit]:
    """(train, test): 8x8 images in [0, 1] with their classes, copies of their own."""
    inputs, targets, train, test = _parsed()
    return ArraySplit(inputs[train], targets[train]), ArraySplit(inputs[test], targets[test])


@cache
def _parsed() -> tuple[Tensor, Tensor, Any, Any]:
    """Images, classes, and which of them are for training and for tests; the text file is parsed once a process."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    inputs = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    targets = torch.from_numpy(bunch.target).long()
    train, test = train_test_split(
        np.arange(len(targets)), test_size=_TEST_SHARE, random_state=0, stratify=bunch.target
    )
    return inputs, targets, train, test
