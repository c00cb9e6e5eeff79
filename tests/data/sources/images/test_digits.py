"""The digits of scikit-learn."""

from __future__ import annotations

import pytest

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.data.sources.images.digits import digits_in_memory


def test_digits_are_ten_classes_in_the_unit_interval():
    data = open_data("digits")
    inputs, targets = next(iter(data.batches("test", batch_size=360)))
    assert inputs.shape == (360, 1, 8, 8) and float(inputs.min()) == 0 and float(inputs.max()) == 1
    assert data.num_classes == 10 and targets.bincount().min() > 30  # stratified


@pytest.mark.integration
def test_they_are_scikit_learns_and_so_are_those_for_tests():
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, targets = load_digits().images / 16, load_digits().target
    parts = train_test_split(np.arange(len(targets)), test_size=0.2, random_state=0, stratify=targets)
    for split, rows in zip(digits_in_memory(), parts, strict=True):
        assert np.array_equal(split.inputs[:, 0].numpy(), images[rows].astype(np.float32))
        assert np.array_equal(split.targets.numpy(), targets[rows])


def test_a_location_is_refused():
    with pytest.raises(InputError, match="takes no location, got 'x'"):
        open_data("digits:x")
