"""What the controller writes is widened to the budget."""

from __future__ import annotations

from types import SimpleNamespace

from compresskit.model.chain import chain_costs
from compresskit.search.nas.policies.nas import widened_to_fit
from compresskit.search.nas.space import next_width

WIDTHS = [4, 6, 8, 12, 16]


def at_most(macs):
    """A session and a space that only know what a network costs."""
    session = SimpleNamespace(options=SimpleNamespace(widths=WIDTHS), fits=lambda costs: costs["macs"] <= macs)
    return session, SimpleNamespace(costs=lambda layers: chain_costs(layers, (1, 8, 8), 10))


def test_layers_take_the_next_width_in_turn_from_the_last():
    network = [
        (0, {"op": "conv", "out": 4, "kernel": 1}),
        (None, {"op": "pool"}),
        (1, {"op": "conv", "out": 4, "kernel": 1}),
    ]
    # MACs: 64 a + 16 a b + 10 b of widths a and b
    session, space = at_most(64 * 6 + 16 * 6 * 8 + 10 * 8)
    found = widened_to_fit(session, space, network)
    assert [layer.get("out") for _, layer in found] == [6, None, 8]
    assert [slot for slot, _ in found] == [0, None, 1]
    assert network[0][1]["out"] == 4  # the argument stays as it was


def test_what_fills_the_budget_stays():
    network = [(0, {"op": "conv", "out": 16, "kernel": 3})]
    session, space = at_most(10**9)
    assert widened_to_fit(session, space, network) == network


def test_next_width():
    assert next_width(6, WIDTHS) == 8 and next_width(5, WIDTHS) == 6 and next_width(16, WIDTHS) is None
