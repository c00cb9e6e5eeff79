"""The digits of scikit-learn, as classes.

They stand in a file beside this one, divided once by scikit-learn's `train_test_split`: scikit-learn takes longer to
import than to train on them. Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository (CC BY 4.0).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....core.errors import InputError
from ....core.types import Preprocessing
from ...splits.arrays import ArraySplit
from ...splits.base import Splits


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
    """Images, classes, and which of them are for training and for tests; the file is read once a process."""
    with np.load(Path(__file__).with_suffix(".npz")) as file:
        inputs = torch.from_numpy(file["images"]).float().unsqueeze(1) / 16
        targets = torch.from_numpy(file["targets"]).long()
        return inputs, targets, file["train"].astype(np.int64), file["test"].astype(np.int64)
