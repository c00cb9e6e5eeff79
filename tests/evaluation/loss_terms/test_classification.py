"""Losses against classes, by value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from compresskit.core.errors import InputError
from compresskit.evaluation.loss_terms.classification import binary_cross_entropy, cross_entropy, dice


def test_cross_entropy_of_maps_tokens_and_classes_is_the_same_number():
    logits, targets = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    flat = F.cross_entropy(logits.movedim(1, -1).flatten(0, -2), targets.flatten())
    assert cross_entropy({"out": logits}, targets) == pytest.approx(flat.item())
    assert cross_entropy(logits.movedim(1, -1).flatten(1, 2), targets.flatten(1)) == pytest.approx(flat.item())


def test_class_weights_and_ignored_classes_by_hand():
    logits, targets = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([0, 1])
    # -log 1/2 with weight 3, -log 1/4 with weight 1
    expected = (3 * math.log(2) + math.log(4)) / 4
    assert cross_entropy(logits, targets, class_weights=[3, 1]).item() == pytest.approx(expected)
    assert cross_entropy(logits, targets, ignore_index=1).item() == pytest.approx(math.log(2))
    with pytest.raises(InputError, match="class_weights holds 3 numbers for 2 classes"):
        cross_entropy(logits, targets, class_weights=[1, 1, 1])


def test_floats_are_no_classes():
    with pytest.raises(InputError, match="loss 'ce' compares classes, and the targets are floats; choose mse"):
        cross_entropy(torch.randn(2, 3), torch.tensor([0.0, 1.0]))


def test_binary_cross_entropy_by_value_and_gradient():
    logits = torch.tensor([[0.0, 2.0]], requires_grad=True)
    loss = binary_cross_entropy(logits, torch.tensor([[1, 0]]))
    assert loss.item() == pytest.approx((math.log(2) + 2 + math.log(1 + math.exp(-2))) / 2)
    loss.backward()
    assert torch.allclose(logits.grad, torch.tensor([[-0.5 / 2, torch.sigmoid(torch.tensor(2.0)).item() / 2]]))
    weighted = binary_cross_entropy(logits, torch.tensor([[1, 0]]), class_weights=[3, 1])
    assert weighted.item() == pytest.approx(loss.item() + 2 * math.log(2) / 2)
    with pytest.raises(InputError, match="targets from 0 to 1, got 0 to 2; classes take ce"):
        binary_cross_entropy(logits, torch.tensor([[0, 2]]))


def test_dice_by_hand_and_gradient():
    logits = torch.full((1, 1, 2, 2), 0.0, requires_grad=True)
    mask = torch.tensor([[[1, 1], [0, 0]]])
    # probabilities 1/2: overlap 1, sizes 2 + 2
    loss = dice(logits, mask, smooth=0.0)
    assert loss.item() == pytest.approx(1 - 2 * 1 / 4)
    loss.backward()
    assert (logits.grad[0, 0, 0] < 0).all() and (logits.grad[0, 0, 1] > 0).all()
    perfect = F.one_hot(mask, 2).movedim(-1, 1).float() * 100
    assert dice(perfect, mask).item() == pytest.approx(0.0, abs=1e-6)
    half_ignored = torch.tensor([[[1, 255], [0, 255]]])
    assert dice(perfect, half_ignored, ignore_index=255).item() == pytest.approx(0.0, abs=1e-6)
    assert torch.autograd.gradcheck(
        lambda x: dice(x, mask), torch.randn(1, 3, 2, 2, dtype=torch.float64).requires_grad_()
    )
