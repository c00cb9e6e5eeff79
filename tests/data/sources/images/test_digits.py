"""The digits of scikit-learn."""

from __future__ import annotations

import pytest

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data


def test_digits_are_ten_classes_in_the_unit_interval():
    data = open_data("digits")
    inputs, targets = next(iter(data.batches("test", batch_size=360)))
    assert inputs.shape == (360, 1, 8, 8) and float(inputs.min()) == 0 and float(inputs.max()) == 1
    assert data.num_classes == 10 and targets.bincount().min() > 30  # stratified


def test_a_location_is_refused():
    with pytest.raises(InputError, match="takes no location, got 'x'"):
        open_data("digits:x")
