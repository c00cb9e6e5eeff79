"""Bags of embeddings and circular padding: as torch has them, without loops."""

import pytest
import torch
from torch.nn import functional

from compresskit.export.exporters.branch_free import functions
from compresskit.export.exporters.branch_free.replaced import branch_free

TABLE = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
INDICES = torch.tensor([[1, 2, 8, 8], [0, 0, 0, 0], [3, 8, 5, 1]])


@pytest.mark.parametrize("padding", [None, 0, 8, -1])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_one_size(mode, padding):
    named = {"mode": mode, "padding_idx": padding}
    wanted = functional.embedding_bag(INDICES, TABLE, **named)
    torch.testing.assert_close(functions.embedding_bag(INDICES, TABLE, **named), wanted)


def test_padding_by_nothing_is_no_operator():
    values = torch.ones(1, 2)
    assert functions.pad(values, (0, 0)) is values


def test_entries_with_shares_and_bags_of_other_sizes():
    shares = torch.rand(3, 4)
    wanted = functional.embedding_bag(INDICES, TABLE, mode="sum", per_sample_weights=shares)
    torch.testing.assert_close(functions.embedding_bag(INDICES, TABLE, mode="sum", per_sample_weights=shares), wanted)
    flat, offsets = INDICES.flatten(), torch.tensor([0, 3, 7])
    wanted = functional.embedding_bag(flat, TABLE, offsets)
    assert torch.equal(functions.embedding_bag(flat, TABLE, offsets), wanted)


@pytest.mark.parametrize(
    ("shape", "sizes"), [((2, 3, 5), (2, 1)), ((2, 3, 5, 6), (1, 0, 2, 5)), ((1, 2, 4, 4, 4), (1, 1) * 3)]
)
@pytest.mark.parametrize("mode", ["circular", "constant", "replicate"])
def test_padding(shape, sizes, mode):
    values = torch.randn(shape)
    assert torch.equal(functions.pad(values, sizes, mode), functional.pad(values, sizes, mode))


def test_torch_itself_is_called_for_all_else_while_names_are_replaced():
    values = torch.ones(1, 2)
    with branch_free():
        assert functional.pad is functions.pad
        assert functional.pad(values, (1, 0), value=3.0).tolist() == [[3.0, 1.0, 1.0]]
        assert functional.embedding_bag(INDICES[0], TABLE, torch.tensor([0])).shape == (1, 4)
