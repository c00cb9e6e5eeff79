"""The digits of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.data.sources.images.digits import digits_in_memory, stratified


def test_digits_are_ten_classes_in_the_unit_interval():
    data = open_data("digits")
    inputs, targets = next(iter(data.batches("test", batch_size=360)))
    assert inputs.shape == (360, 1, 8, 8) and float(inputs.min()) == 0 and float(inputs.max()) == 1
    assert data.num_classes == 10 and targets.bincount().min() > 30  # stratified


def test_a_location_is_refused():
    with pytest.raises(InputError, match="takes no location, got 'x'"):
        open_data("digits:x")


def test_the_split_is_the_one_of_scikit_learn():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    train, test = train_test_split(np.arange(1797), test_size=0.2, random_state=0, stratify=bunch.target)
    ours, held_out = digits_in_memory()
    assert np.array_equal(ours.inputs.numpy()[:, 0] * 16, bunch.images[train])
    assert np.array_equal(held_out.targets.numpy(), bunch.target[test])
    few = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])  # equal remainders, which are drawn
    for seed in range(5):
        expected = train_test_split(np.arange(11), test_size=4, random_state=seed, stratify=few)
        assert all(map(np.array_equal, stratified(few, 4, seed=seed), expected))
