"""Storage codecs are exact and small."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st

from compresskit.artifact.codecs.storage import CODECS, decode_all, encode_all, pack_bits, unpack_bits
from compresskit.core.errors import InputError


@pytest.mark.integration
@given(st.lists(st.booleans(), max_size=40))
def test_bits_round_trip(bits):
    packed = pack_bits(torch.tensor(bits, dtype=torch.bool))
    assert len(packed) == -(-len(bits) // 8)
    assert unpack_bits(packed, len(bits)).tolist() == bits


def test_bits_by_hand():
    assert pack_bits(torch.tensor([True, False, False, True, False, False, False, False, True])).tolist() == [9, 1]


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_bitmap_round_trip(shape, dtype):
    tensor = (torch.randn(shape) * 3).round().to(dtype)
    codec = CODECS.load("bitmap")
    again = codec.decode(codec.encode(tensor))
    assert again.dtype == dtype
    assert torch.equal(again, tensor)


def test_bitmap_keeps_negative_zero_and_non_contiguous():
    codec = CODECS.load("bitmap")
    tensor = torch.tensor([[0.0, -0.0], [1.0, 0.0]]).t()
    again = codec.decode(codec.encode(tensor))
    assert torch.equal(torch.signbit(again), torch.signbit(tensor))
    assert torch.equal(again, tensor)


def test_only_named_tensors_are_coded():
    tensors = {"a.weight": torch.eye(4), "b": torch.ones(3)}
    entries = encode_all(tensors, {"a.weight": "bitmap"})
    assert sorted(entries) == ["a.weight::bitmap::bitmap", "a.weight::bitmap::shape", "a.weight::bitmap::values", "b"]
    decoded = decode_all(entries)
    assert decoded.keys() == tensors.keys()
    assert torch.equal(decoded["a.weight"], tensors["a.weight"])


def test_parts_that_do_not_fit_are_refused():
    entries = encode_all({"a": torch.eye(4)}, {"a": "bitmap"})
    entries["a::bitmap::values"] = torch.ones(2)
    with pytest.raises(InputError, match="'a' does not decode as bitmap"):
        decode_all(entries)
