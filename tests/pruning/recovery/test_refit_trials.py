"""Cuts are judged by what the refitted model answers on inputs that were left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.data.dataset import open_data
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.recovery.refit_trials import relative_error
from compresskit.pruning.structured import prune as pruning
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


def test_error_is_relative_to_the_variance_of_the_answers():
    whole, changed = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        whole.weight.copy_(torch.tensor([[1.0, 1.0]]))
        changed.weight.copy_(torch.tensor([[1.0, 0.0]]))
        batches = [torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 1.0], [0.0, 0.0]])]
        # answers 2, 4 and 0 have variance 8 / 3; those of the other are off by 1, 1 and 0
        assert relative_error(whole, changed, batches) == pytest.approx((2 / 3) / (8 / 3))
        assert relative_error(whole, whole, batches) == 0.0


def test_cuts_whose_answers_have_other_shapes_are_not_compared():
    with torch.no_grad():
        assert relative_error(nn.Linear(2, 3), nn.Linear(2, 2), [torch.zeros(4, 2)]) is None


def test_the_budget_goes_to_the_widths_that_come_back_best(digits_model, monkeypatch):
    """Widths that are solved for from wrong predictions lose to one share for all."""
    loaded = load_model(str(digits_model))
    context = Context(loaded, data=open_data("digits"))
    options = PruneOptions(target_macs=0.5, samples=256, reconstruct="sequential", round_to=1)

    def wrong(_loaded, graph, *_others):
        """As if the first group could lose all but one of its channels, and the others none."""
        first, *others = (group.name for group in graph.groups)
        widths = {group.name: np.arange(len(group), -1.0, -1.0) for group in graph.groups}
        return {first: 0 * widths[first], **{name: widths[name] for name in others}}

    by_share = prune(loaded.clone(), options.model_copy(update={"scope": "local"}), context)
    monkeypatch.setattr(pruning, "predicted_losses", wrong)
    found = prune(loaded.clone(), options, context)
    errors = {row["scope"]: row["held_out_error"] for row in found.tables["scopes tried"]}
    assert errors["local"] < errors["solve"]
    assert list(errors) == ["solve", "local", "between"]
    assert found.facts["scope"] == "local" == min(errors, key=errors.__getitem__)
    assert [row["taken"] for row in found.tables["scopes tried"]] == [False, True, False]
    x = context.needs_data().calibration(8)[0]
    with torch.no_grad():
        assert torch.equal(found.loaded.module(x), by_share.loaded.module(x))
    given = prune(loaded.clone(), options.model_copy(update={"scope": "solve"}), context)  # is done as it is asked for
    assert given.facts["scope"] == "solve" and "scopes tried" not in given.tables
