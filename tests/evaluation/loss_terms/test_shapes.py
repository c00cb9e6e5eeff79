"""Which axis holds the classes."""

from __future__ import annotations

import pytest

from compresskit.evaluation.loss_terms.shapes import class_axis


@pytest.mark.parametrize(
    ("logits", "targets", "axis"),
    [
        ((4, 3), None, 1),
        ((4, 3), (4,), 1),
        ((2, 7, 9), (2, 7), 2),
        ((2, 3, 7), (2, 7), 1),
        ((2, 5, 5), (2, 5), 2),
        ((2, 3, 4, 5), None, 1),
        ((2, 4, 5, 3), (2, 4, 5), 3),
        ((2, 5, 5, 5), (2, 5, 5), 1),
    ],
)
def test_class_axis(logits, targets, axis):
    assert class_axis(logits, targets) == axis
