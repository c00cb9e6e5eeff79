"""Transformations against the paper's equations, and the function they must leave as it was."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError, ShapeError
from compresskit.model.chain import chain
from compresskit.search.nas import net2net

LAYERS = [
    {"op": "conv", "out": 5, "kernel": 3}, {"op": "pool"}, {"op": "conv", "out": 4, "kernel": 5},
    {"op": "conv", "out": 6, "kernel": 1},
]  # fmt: skip


def equal_shares(mapping):
    """What share of an old channel each copy passes on: one over the number of copies; (wanted,).

    Source: Chen et al., Net2Net, eq. 2 (the factor 1 / |{x: g(x) = g(j)}|).
    """
    return 1 / torch.bincount(mapping)[mapping].double()


@pytest.fixture
def net():
    """A chain whose BatchNorms have seen data, so that none is an identity."""
    made = chain(LAYERS, (2, 8, 8), 3)
    made.train()
    for _ in range(3):
        made(torch.randn(16, 2, 8, 8) * 2 + 1)
    for unit in made.layers:
        if hasattr(unit, "norm"):
            torch.nn.init.uniform_(unit.norm.weight, 0.5, 2)
            torch.nn.init.normal_(unit.norm.bias)
    return made.eval()


def test_widening_map_begins_with_the_old_channels():
    mapping = net2net.widening_map(3, 7, torch.Generator().manual_seed(0))
    assert mapping[:3].tolist() == [0, 1, 2] and mapping.shape == (7,) and int(mapping.max()) < 3
    with pytest.raises(InputError, match="3 channels cannot be widened to 2"):
        net2net.widening_map(3, 2, torch.Generator())


def test_net2wider_is_the_papers_equation():
    weight, following = torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0, 5.0]])
    mapping = torch.tensor([0, 1, 0])
    wide, reader = net2net.net2wider(weight, following, mapping, equal_shares(mapping))
    assert wide.tolist() == [[1.0], [2.0], [1.0]]
    assert reader.tolist() == [[3.0, 5.0, 3.0]]  # channel 0 has two copies
    with pytest.raises(ShapeError, match="3 inputs does not read a layer of 2 channels"):
        net2net.net2wider(weight, torch.ones(1, 3), mapping, equal_shares(mapping))


def test_uneven_shares_add_up_and_part_the_copies():
    mapping = torch.tensor([0, 1, 0, 0])
    shares = net2net.uneven_shares(mapping, torch.Generator().manual_seed(0))
    assert float(shares[mapping == 0].sum()) == pytest.approx(1) and float(shares[1]) == pytest.approx(1)
    assert len(set(shares.tolist())) == 4


def test_net2deeper_passes_its_input_on():
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(torch.conv2d(x, net2net.net2deeper(3, 5), padding=2), x)


@pytest.mark.parametrize("position", [0, 2, 3])
def test_a_wider_chain_computes_the_same(net, position):
    x = torch.randn(4, 2, 8, 8)
    before = net(x)
    net2net.widened(net, position, 9, torch.Generator().manual_seed(1))
    assert net.layers[position].conv.out_channels == 9 and net.layers[position].norm.num_features == 9
    torch.testing.assert_close(net(x), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("position", "kernel"), [(0, 3), (1, 1), (3, 5)])
def test_a_deeper_chain_computes_the_same(net, position, kernel):
    x = torch.randn(4, 2, 8, 8)
    before = net(x)
    net2net.deepened(net, position, kernel, torch.randn(16, 2, 8, 8))
    assert len(net.layers) == len(LAYERS) + 1
    torch.testing.assert_close(net(x), before, atol=1e-5, rtol=0)


def test_copies_part_in_training(net):
    net2net.widened(net, 0, 6, torch.Generator().manual_seed(1))
    weight = net.layers[0].conv.weight
    copy = next(n for n in range(5) if torch.equal(weight[n], weight[5]))
    net(torch.randn(8, 2, 8, 8)).square().sum().backward()
    assert not torch.allclose(weight.grad[copy], weight.grad[5])
