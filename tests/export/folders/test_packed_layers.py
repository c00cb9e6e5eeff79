"""Codes in 32-bit words."""

import re

import torch

from compresskit.export.folders.packed_layers import exactly, into_words


def test_words_by_hand():
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 15]])
    assert into_words(codes, 4, 1).tolist() == [[0xF7654321 - (1 << 32)]]
    assert into_words(codes.T, 4, 0).tolist() == [[0xF7654321 - (1 << 32)]]
    assert into_words(codes, 4, 1, (0, 2, 4, 6, 1, 3, 5, 7)).tolist() == [[0xF6427531 - (1 << 32)]]
    assert into_words(torch.tensor([[255, 0, 1, 2, 3, 4, 5, 6]]), 8, 1).tolist() == [[0x020100FF, 0x06050403]]


def test_one_name_matches_alone():
    assert (
        re.match(exactly("a.b"), "a.b") and not re.match(exactly("a.b"), "a.bc") and not re.match(exactly("a.b"), "axb")
    )
