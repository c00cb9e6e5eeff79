"""The digits that ship with scikit-learn, as classes."""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
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
    table = np.loadtxt(_table_file(), delimiter=",")
    inputs = torch.from_numpy(table[:, :-1]).float().reshape(-1, 1, 8, 8) / 16
    classes = table[:, -1].astype(np.int64)
    train, test = stratified(classes, math.ceil(_TEST_SHARE * len(classes)), seed=0)
    return inputs, torch.from_numpy(classes), train, test


def _table_file() -> Path:
    """The file of the digits in scikit-learn's folder: importing it would take longer than most commands here."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise InputError("data 'digits' ships with scikit-learn, which is not installed; pip install scikit-learn")
    return Path(found.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")


def stratified(classes: np.ndarray, tests: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and for tests, with the classes' shares in both: the draw of scikit-learn's.

    Args:
        classes: (n,), of each example.
        tests: how many examples are for tests.
        seed: decides which.
    Returns:
        (train, test), the same as `train_test_split(range(n), stratify=classes)` draws.
    """
    draw = np.random.RandomState(seed)
    members = [np.flatnonzero(classes == one) for one in np.unique(classes)]
    counts = np.array([len(one) for one in members])
    in_train = _shares(counts, len(classes) - tests, draw)
    in_test = _shares(counts - in_train, tests, draw)
    shuffled = [one[draw.permutation(len(one))] for one in members]
    train = [one[:first] for one, first in zip(shuffled, in_train, strict=True)]
    test = [one[first : first + more] for one, first, more in zip(shuffled, in_train, in_test, strict=True)]
    return draw.permutation(np.concatenate(train)), draw.permutation(np.concatenate(test))


def _shares(counts: np.ndarray, total: int, draw: np.random.RandomState) -> np.ndarray:
    """How many of each class make `total`: in proportion, by largest remainders, equal ones drawn."""
    exact = counts / counts.sum() * total
    taken = np.floor(exact)
    missing = int(total - taken.sum())
    for remainder in sorted(set(exact - taken), reverse=True):
        if missing == 0:
            break
        equal = np.flatnonzero(exact - np.floor(exact) == remainder)
        chosen = draw.choice(equal, size=min(len(equal), missing), replace=False)
        taken[chosen] += 1
        missing -= len(chosen)
    return taken.astype(int)
