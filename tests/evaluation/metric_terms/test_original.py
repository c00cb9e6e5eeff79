"""Agreement and fidelity for every structure of outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.evaluation.metric_terms.original import agreement, fidelity
from compresskit.evaluation.metrics import make_metric


def test_agreement_of_classes_pixels_tokens_and_signs():
    logits = torch.tensor([[3.0, 1, 2], [0, 5, 1]])
    other = torch.tensor([[3.0, 1, 2], [6, 5, 1]])
    assert agreement(other, logits).tolist() == [1, 0]
    maps = torch.zeros(1, 2, 2, 2)
    changed = maps.clone()
    changed[0, 1, 0, 0] = 1
    assert agreement({"out": changed}, {"out": maps}).tolist() == [0.75]
    assert agreement(changed.flatten(2).movedim(1, -1), maps.flatten(2).movedim(1, -1)).tolist() == [0.75]
    assert agreement(torch.tensor([[1.0], [-1.0]]), torch.tensor([[2.0], [3.0]])).tolist() == [1, 0]


def test_agreement_of_boxes():
    box = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}
    moved = box | {"boxes": torch.tensor([[0.0, 0, 10, 8]])}
    relabelled = box | {"labels": torch.tensor([2])}
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long)}
    unsure = box | {"scores": torch.tensor([0.2])}
    found = agreement([moved, relabelled, nothing, nothing, unsure], [box, box, box, nothing, nothing])
    assert found.tolist() == [1, 0, 0, 1, 1]


def test_fidelity_by_hand():
    outputs = {"a": torch.tensor([[3.0], [0.0]]), "b": (torch.tensor([[4.0], [1.0]]),)}
    original = {"a": torch.tensor([[3.0], [0.0]]), "b": (torch.tensor([[4.0], [2.0]]),)}
    assert fidelity(outputs, original).tolist() == pytest.approx([0, 0.5])
    masked = torch.tensor([[float("-inf"), 1.0]])
    assert fidelity(masked, masked).tolist() == [0]
    with pytest.raises(InputError, match="choose agreement"):
        fidelity([{"boxes": torch.zeros(1, 4)}], [{"boxes": torch.zeros(2, 4)}])


def test_a_model_against_itself_without_labels():
    original, other = nn.Linear(3, 2), nn.Linear(3, 2)
    batches = [(torch.randn(20, 3), None)]
    metric = make_metric("fidelity", original)
    assert metric(original, batches).value == 0 and not metric.higher_is_better and metric.scale == "share"
    x = batches[0][0]
    expected = ((other(x) - original(x)).norm(dim=1) / original(x).norm(dim=1)).mean().item()
    assert metric(other, batches).value == pytest.approx(expected, rel=1e-5)
    assert metric.against(other)(other, batches).value == 0
