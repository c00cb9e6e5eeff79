"""Networks that are described by data."""

from __future__ import annotations

import pytest
import torch

from compresskit.analysis.measure import measure
from compresskit.core.errors import InputError
from compresskit.model.chain import chain, chain_costs, scaled

LAYERS = [
    {"op": "conv", "out": 6, "kernel": 5}, {"op": "pool"}, {"op": "separable", "out": 10, "kernel": 3},
    {"op": "conv", "out": 7, "kernel": 1},
]  # fmt: skip


def test_costs_from_the_description_are_the_measured_ones():
    net = chain(LAYERS, (3, 9, 12), 4)
    costs = chain_costs(LAYERS, (3, 9, 12), 4)
    assert costs["macs"] == measure.macs(net, torch.zeros(1, 3, 9, 12))
    assert costs["params"] == measure.parameter_count(net)


def test_scaled_widths_are_at_least_one():
    assert [layer.get("out") for layer in scaled(LAYERS, 0.5)] == [3, None, 5, 4]
    assert [layer.get("out") for layer in scaled(LAYERS, 0.01)] == [1, None, 1, 1]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("conv", "layers must be a list"),
        ([{"out": 3}], "layer 0 must be a mapping with op"),
        ([{"op": "conf", "out": 3, "kernel": 3}], "unknown op 'conf'; did you mean 'conv'"),
        ([{"op": "pool", "out": 3}], "layer 0: pool takes op, got op, out"),
        ([{"op": "conv", "out": 3, "kernel": 2}], "kernel odd"),
        ([{"op": "conv", "out": True, "kernel": 3}], "out must be 1 to"),
        ([{"op": "pool"}] * 4, "layer 3: nothing is left to pool"),
    ],
)
def test_refusals(layers, message):
    with pytest.raises(InputError, match=message):
        chain(layers, (1, 8, 8))
