"""Losses against numbers, by value and gradient."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.evaluation.loss_terms.regression import absolute_error, huber, squared_error


@pytest.mark.parametrize(
    ("loss", "value", "gradient"),
    [
        (squared_error, (0.25 + 9) / 2, [0.5, -3.0]),
        (absolute_error, (0.5 + 3) / 2, [0.5, -0.5]),
        (huber, (0.125 + 2.5) / 2, [0.25, -0.5]),
    ],
)
def test_by_hand(loss, value, gradient):
    outputs = torch.tensor([[1.5], [0.0]], requires_grad=True)
    found = loss(outputs, torch.tensor([1.0, 3.0]))
    assert found.item() == pytest.approx(value)
    found.backward()
    assert outputs.grad.flatten().tolist() == pytest.approx(gradient)


def test_delta_moves_where_huber_becomes_linear():
    assert huber(torch.tensor([3.0]), torch.tensor([0.0]), delta=2.0).item() == pytest.approx(2 * (3 - 1))


def test_shapes_that_do_not_fit():
    with pytest.raises(InputError, match=r"targets of shape \[3\] do not fit outputs of shape \[2\]"):
        absolute_error(torch.zeros(2), torch.zeros(3))
