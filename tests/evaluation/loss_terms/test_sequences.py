"""Connectionist temporal classification, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.evaluation.loss_terms.sequences import ctc


def test_two_frames_and_one_label_by_hand():
    probabilities = torch.tensor([[[0.4, 0.6], [0.7, 0.3]]])
    # a-, -a, aa
    expected = -math.log(0.6 * 0.7 + 0.4 * 0.3 + 0.6 * 0.3)
    logits = probabilities.log().requires_grad_()
    loss = ctc(logits, torch.tensor([[1]]))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert logits.grad[0, 0, 1] < 0 < logits.grad[0, 0, 0]


def test_padding_and_frames_first_change_nothing():
    logits = torch.randn(3, 8, 5)
    targets = torch.tensor([[1, 2], [3, 0], [4, 0]])
    padded = torch.tensor([[1, 2, -1], [3, -100, -1], [4, 0, 0]])
    value = ctc(logits, targets).item()
    assert ctc(logits, padded).item() == pytest.approx(value)
    assert ctc(logits.transpose(0, 1), targets).item() == pytest.approx(value)
    alone = [ctc(logits[i : i + 1], targets[i : i + 1]).item() for i in range(3)]
    assert value == pytest.approx(sum(alone) / 3)


def test_refusals():
    with pytest.raises(InputError, match="has 4 labels and the model gives 2 frames"):
        ctc(torch.randn(1, 2, 5), torch.tensor([[1, 2, 3, 4]]))
    with pytest.raises(InputError, match="there is a label 7, and the model has 5 classes"):
        ctc(torch.randn(1, 9, 5), torch.tensor([[7]]))
    with pytest.raises(InputError, match="takes logits"):
        ctc(torch.randn(4, 5), torch.tensor([1, 2, 3, 4]))
