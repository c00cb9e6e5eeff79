"""Weights that networks share: the slices they borrow, and what one network learns from another."""

from __future__ import annotations

import pytest
import torch

from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.evaluation.metrics import make_metric
from compresskit.model.chain import chain
from compresskit.search.nas.policies.nas import CHOICES, nas
from compresskit.search.nas.session import Session
from compresskit.search.nas.shared import SharedWeights
from compresskit.search.nas.space import ChainSpace
from compresskit.search.nas.student import measured_costs
from compresskit.search.options import SearchOptions
from compresskit.training.context import Context


def conv(out, kernel=3):
    return {"op": "conv", "out": out, "kernel": kernel}


WIDE = [(0, conv(8)), (None, {"op": "pool"}), (1, conv(16))]
NARROW = [(0, conv(8)), (None, {"op": "pool"}), (1, conv(12))]


def layers_of(network):
    return [layer for _, layer in network]


def test_a_network_returns_its_slices_and_nothing_else_changes():
    shared = SharedWeights(CHOICES, slots=2, width=16, in_channels=1, num_classes=10)
    before = {name: value.clone() for name, value in shared.state_dict().items()}
    net = chain(layers_of(NARROW), (1, 8, 8), 10)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.fill_(7)
    shared.take_back(net, NARROW)
    after = shared.state_dict()
    second = "slots.1.conv3."
    touched = {name for name in after if not torch.equal(after[name], before[name])}
    assert all(name.startswith(("slots.0.conv3.", second, "classifier.")) for name in touched)
    name = next(name for name in touched if name.startswith(second) and after[name].dim() == 4)
    assert (after[name][:12, :8] == 7).all()
    assert torch.equal(after[name][12:], before[name][12:]) and torch.equal(after[name][:, 8:], before[name][:, 8:])

    wide = chain(layers_of(WIDE), (1, 8, 8), 10)
    shared.lend(wide, WIDE)
    lent = dict(wide.named_parameters())
    weight = next(value for key, value in lent.items() if key.startswith("layers.2.") and value.dim() == 4)
    assert torch.equal(weight, after[name][:16, :8])


@pytest.fixture
def session(digits_model):
    """A search on the digits whose brief trainings take 15 steps."""
    teacher = load_model(str(digits_model))
    data = open_data("digits", teacher.preprocessing)
    options = SearchOptions(
        technique="architecture", policy="nas", target_macs=0.9, child_steps=15, widths=[8, 12, 16], slots=2
    )
    return Session(
        teacher, measured_costs(teacher), options, Context(teacher, data, make_metric("top1", teacher.module))
    )


def test_a_network_begins_with_what_another_one_learned(session):
    space = ChainSpace(session.teacher)
    shared, untaught = (
        SharedWeights(CHOICES, slots=2, width=16, in_channels=1, num_classes=10) for _ in range(2)
    )  # fmt: skip

    def score(network, weights):
        child = space.load(layers_of(network))
        weights.lend(child.module, network)
        reached = session.score_after_training(child)
        weights.take_back(child.module, network)
        return reached

    for _ in range(10):
        score(WIDE, shared)
    assert score(NARROW, shared) > score(NARROW, untaught) + 0.2


def test_a_search_shares_what_its_networks_learned(session):
    session.options = session.options.model_copy(update={"slots": 1, "trials": 1})
    nas(session)
    layers = session.children[0].network
    placed = [(None if layer["op"] == "pool" else 0, layer) for layer in layers]
    lent = ChainSpace(session.teacher).load(layers)
    session.extra["shared"].lend(lent.module, placed)
    trained = session.models["best"].module.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in lent.module.state_dict().items())
