"""Groups that the output does not rest on go first under a budget, where there is data to see it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.importance.predicted_losses import predicted_losses
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


@pytest.fixture
def loaded():
    """Two hidden layers of 32; the last layer reads six units of the second, and all of the first matter."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )  # fmt: skip
    with torch.no_grad():
        module[5].weight[:, 6:] = 0.0
        module[5].weight *= 20
    return Loaded(module.eval(), {}, torch.zeros(1, 1, 8, 8))


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def _widths(result):
    return [layer.out_features for layer in result.loaded.module if isinstance(layer, nn.Linear)]


def test_a_budget_is_shared_out_by_what_the_output_loses(loaded, digits):
    options = PruneOptions(target_macs=0.7, samples=256, reconstruct="none", round_to=1)
    context = Context(loaded.clone(), data=digits)
    inputs = digits.calibration(256, batch_size=256)[0]
    with torch.no_grad():
        wanted = loaded.module(inputs)
    moved = {}
    for scope in ("local", "auto"):
        result = prune(loaded.clone(), options.model_copy(update={"scope": scope}), context)
        with torch.no_grad():
            moved[scope] = float((result.loaded.module(inputs) - wanted).square().mean())
        if scope == "auto":
            assert result.facts["scope"] == "solve"
            first, second, _ = _widths(result)
            assert second < 16 < first
    assert moved["auto"] < 0.5 * moved["local"]


def test_losses_fall_with_the_width_and_are_none_where_nothing_is_read(loaded, digits):
    graph = build_graph(loaded.module, loaded.example)
    options, context = PruneOptions(target_macs=0.7, samples=256), Context(loaded, data=digits)
    scores = {group.name: np.arange(len(group))[::-1] for group in graph.groups}  # the first units stay longest
    first, second = (predicted_losses(loaded, graph, scores, options, context)[group.name] for group in graph.groups)
    assert len(first) == len(second) == 33
    assert (np.diff(first) <= 0).all() and first[0] > first[31] > 0
    assert second[5] > 0 and second[6:].max() == pytest.approx(0.0, abs=1e-12)


def test_without_a_budget_or_data_every_group_keeps_one_share(loaded, digits):
    by_share = prune(loaded.clone(), PruneOptions(ratio=0.5, reconstruct="none"), Context(loaded, data=digits))
    without = prune(loaded.clone(), PruneOptions(target_macs=0.5), Context(loaded))
    assert by_share.facts["scope"] == without.facts["scope"] == "local"
    assert _widths(by_share) == [16, 16, 10]


def test_what_scope_solve_cannot_do_is_refused(loaded, digits):
    with pytest.raises(ValidationError, match="scope 'solve' shares out a budget"):
        PruneOptions(ratio=0.5, scope="solve")
    with pytest.raises(InputError, match="needs data"):
        prune(loaded, PruneOptions(target_macs=0.5, scope="solve"), Context(loaded))


def test_kinds_with_one_width_are_solved_together_and_fit_the_budget(digits):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
    for name, ends in {"wide": (64, 64), "other": (64, 32)}.items():
        module.add_module(name, nn.Linear(*ends))
        module.add_module(f"{name}_relu", nn.ReLU())
    module.add_module("head", nn.Linear(32, 10))
    loaded = Loaded(module.eval(), {}, torch.zeros(1, 1, 8, 8))
    given = {"target_macs": 0.5, "reconstruct": "none", "widths": "uniform"}
    result = prune(loaded.clone(), PruneOptions(**given, scope="solve"), Context(loaded, data=digits))
    assert result.facts["scope"] == "solve" and result.facts["macs_kept"] <= 0.5
    by_itself = prune(loaded.clone(), PruneOptions(**given), Context(loaded, data=digits))
    tried = {row["scope"]: row["held_out_error"] for row in by_itself.tables["scopes tried"]}
    assert {"solve", "local"} <= set(tried) and by_itself.facts["scope"] == min(tried, key=tried.get)
    assert any(name.startswith("solve with more of ") for name in tried)
    assert by_itself.facts["macs_kept"] <= 0.5
