"""Bit packing: a hand-packed stream, and round trips of every width."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from compresskit.core.errors import ShapeError
from compresskit.quantization.formats.packing import pack, packed_bytes, unpack


def test_three_bits_by_hand():
    # 1, 2, 3 lowest bit first: 001 010 011 -> bits 0..8 = 100 010 110 -> 0b11010001, 0b0
    assert pack(torch.tensor([1, 2, 3]), 3).tolist() == [0b11010001, 0]


def test_four_bits_put_the_first_value_in_the_low_half():
    assert pack(torch.tensor([0xA, 0x5, 0xF]), 4).tolist() == [0x5A, 0x0F]


@settings(deadline=None, max_examples=60)
@given(bits=st.integers(1, 8), count=st.integers(0, 67), seed=st.integers(0, 1000))
def test_round_trip(bits, count, seed):
    values = torch.randint(0, 1 << bits, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack(values, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == packed_bytes(count, bits) == (count * bits + 7) // 8
    assert unpack(packed, bits, count).tolist() == values.tolist()


def test_non_contiguous_values_are_read_in_row_major_order():
    values = torch.arange(12).reshape(3, 4).T
    assert unpack(pack(values, 4), 4, 12).tolist() == values.reshape(-1).tolist()


@pytest.mark.parametrize("values, bits", [([4], 2), ([-1], 4), ([300], 8)])
def test_values_that_do_not_fit_are_refused(values, bits):
    with pytest.raises(ShapeError, match="do not fit"):
        pack(torch.tensor(values), bits)


def test_wrong_widths_and_lengths_are_refused():
    with pytest.raises(ShapeError, match="1 to 8 bits"):
        pack(torch.tensor([0]), 9)
    with pytest.raises(ShapeError, match="take 2 bytes"):
        unpack(torch.zeros(3, dtype=torch.uint8), 4, 4)
