"""Huffman coding: lengths by hand and against brute force, bit-exact round trips, refusals."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from compresskit.artifact.codecs.huffman import SEGMENT, canonical_codes, code_lengths, decode, encode, sizes
from compresskit.artifact.codecs.storage import decode_all, encode_all


def test_lengths_of_the_textbook_example():
    # 45, 13, 12, 16, 9, 5 -> 1, 3, 3, 3, 4, 4
    assert code_lengths(np.array([45, 13, 12, 16, 9, 5])).tolist() == [1, 3, 3, 3, 4, 4]


def test_lengths_are_optimal_among_all_prefix_codes():
    counts = np.array([7, 1, 4, 4, 2])
    best = min(
        int((counts * np.array(lengths)).sum())
        for lengths in itertools.product(range(1, 5), repeat=5)
        if sum(2.0**-length for length in lengths) <= 1
    )
    assert int((counts * code_lengths(counts)).sum()) == best


def test_no_code_is_longer_than_fifteen_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 30:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = code_lengths(np.array(fibonacci)).astype(int)
    assert lengths.max() == 15
    assert (2.0**-lengths).sum() <= 1


def test_canonical_codes_by_hand():
    # lengths 2, 1, 3, 3: 1 -> 0, 0 -> 10, 2 -> 110, 3 -> 111
    assert canonical_codes(np.array([2, 1, 3, 3])).tolist() == [0b10, 0b0, 0b110, 0b111]


def test_unused_and_lone_symbols():
    assert code_lengths(np.array([0, 5, 0])).tolist() == [0, 1, 0]


@settings(deadline=None, max_examples=80)
@given(
    values=st.lists(st.integers(-128, 127), max_size=300),
    zeros=st.integers(0, 700),
    dtype=st.sampled_from([torch.int8, torch.int16, torch.int32, torch.int64]),
    seed=st.integers(0, 9),
)
def test_round_trip(values, zeros, dtype, seed):
    tensor = torch.tensor(values + [0] * zeros, dtype=dtype)
    tensor = tensor[torch.randperm(len(tensor), generator=torch.Generator().manual_seed(seed))]
    found = decode(encode(tensor))
    assert found.dtype == dtype and torch.equal(found, tensor)


@pytest.mark.parametrize("count", [SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 5])
def test_round_trip_over_segments_and_shapes(count):
    generator = torch.Generator().manual_seed(count)
    tensor = (torch.randn(count, generator=generator) * 3).round().clamp(-8, 7).to(torch.int8) + 8
    tensor = tensor.to(torch.uint8)
    assert torch.equal(decode(encode(tensor)), tensor)
    square = tensor[: (count // 4) * 4].reshape(4, -1, 1).transpose(0, 1)
    assert torch.equal(decode(encode(square)), square)


def test_long_gaps_between_rare_values():
    tensor = torch.zeros(5000, dtype=torch.uint8)
    tensor[torch.tensor([0, 255, 511, 766, 4999])] = torch.tensor([3, 9, 3, 3, 200], dtype=torch.uint8)
    parts = encode(tensor)
    assert torch.equal(decode(parts), tensor)
    # one bit a zero would take 625 bytes
    assert parts["coded"].numel() < 300


def test_size_comes_near_the_entropy():
    generator = torch.Generator().manual_seed(0)
    tensor = (torch.randn(60_000, generator=generator) * 2).round().to(torch.int8)
    _, counts = np.unique(tensor.numpy(), return_counts=True)
    share = counts / counts.sum()
    entropy_bytes = -(share * np.log2(share)).sum() * 60_000 / 8
    coded = encode(tensor)
    assert entropy_bytes <= coded["coded"].numel() <= 1.02 * entropy_bytes
    split = sizes(coded)
    assert split.values + split.positions + split.overhead == coded["coded"].numel()
    assert split.positions == 0 and split.overhead < 60


def test_sparse_tensors_split_into_values_and_positions():
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randint(1, 17, (50_000,), generator=generator, dtype=torch.uint8)
    tensor[torch.rand(50_000, generator=generator) > 0.08] = 0
    coded = encode(tensor)
    split = sizes(coded)
    kept = int((tensor != 0).sum())
    assert torch.equal(decode(coded), tensor)
    assert split.values == pytest.approx(kept * 4 / 8, rel=0.02)
    assert split.positions < kept * 6 / 8
    assert coded["coded"].numel() < 50_000 / 8  # below one bit an element


def test_through_the_storage_table():
    tensors = {"a": torch.randint(0, 5, (40, 3), dtype=torch.uint8), "b": torch.ones(2)}
    entries = encode_all(tensors, {"a": "huffman"})
    assert sorted(entries) == ["a::huffman::coded", "b"]
    back = decode_all(entries)
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_empty_and_scalar_tensors():
    for tensor in (torch.zeros(0, 3, dtype=torch.int8), torch.tensor(7, dtype=torch.int32)):
        found = decode(encode(tensor))
        assert found.shape == tensor.shape and torch.equal(found, tensor)


def test_what_cannot_be_coded_is_refused():
    with pytest.raises(ValueError, match="takes integers, got torch.float32"):
        encode(torch.ones(3))
    with pytest.raises(ValueError, match="at most 65535 apart"):
        encode(torch.tensor([0, 70_000]))


@pytest.mark.parametrize(
    "damage", [lambda b: b[:2], lambda b: b[:-1], lambda b: b[:9], lambda b: torch.cat([b, b[:1]])]
)
def test_damaged_bytes_are_refused(damage):
    coded = encode(torch.arange(200, dtype=torch.int16) % 7)["coded"]
    with pytest.raises(ValueError):
        decode({"coded": damage(coded)})
