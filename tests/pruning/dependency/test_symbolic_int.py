import numpy as np
import pytest
import torch
from torch import nn

from compresskit.pruning.dependency.symbolic_int import (
    AttributeKey,
    Axis,
    Number,
    attribute_numbers,
    evaluate,
    expression,
    leaves,
    size_numbers,
)

KEY = AttributeKey("block", "num_heads")


def number(value=12):
    return Number(value, ("attr", KEY))


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda n: 768 // n, 64), (lambda n: n * 3, 36), (lambda n: 3 * n, 36), (lambda n: n // 5, 2), (lambda n: n % 5, 2),  # noqa: E501
        (lambda n: n + 1, 13), (lambda n: 1 - n, -11), (lambda n: -n, -12), (lambda n: n * n, 144),
    ],
)  # fmt: skip
def test_arithmetic_keeps_the_expression(make, value):
    result = make(number())
    assert result == value and isinstance(result, Number)
    assert evaluate(result.expr, {KEY: 12}, np.ones(1, bool)) == value
    assert evaluate(result.expr, {KEY: 6}, np.ones(1, bool)) == make(6)


def test_division_gives_a_plain_float():
    assert type(number() / 5) is float


def test_a_plain_int_is_a_constant():
    assert expression(7) == ("const", 7)
    assert leaves((number() * 7).expr, "attr") == [KEY]


def test_axis_counts_positions_whose_rows_all_went():
    keep = np.array([True, False, True, False, False])
    axis = Axis((np.array([[0, 1, 2], [3, 3, 4]]),), 3)
    assert axis.mask(keep).tolist() == [True, False, True]
    assert axis.kept(keep) == 2


def test_attributes_are_numbers_only_while_open():
    layer = nn.Conv2d(4, 8, 3)
    with attribute_numbers(layer):
        assert layer.out_channels.expr == ("attr", AttributeKey("", "out_channels"))
        assert layer.kernel_size[1].expr == ("attr", AttributeKey("", "kernel_size", 1))
    assert type(layer.out_channels) is int and type(layer.kernel_size[1]) is int


def test_numbers_work_as_sizes():
    axis = Axis((np.arange(3)[None],), 3)
    shape = size_numbers(torch.Size([2, 3]), {1: axis})
    assert torch.zeros(shape).shape == (2, 3)
    assert shape[1].expr == ("size", axis)
