"""The loss against the data's own targets: how rows, arguments and tasks come together."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.core.errors import InputError
from compresskit.data.augmentation.transforms import MixedTargets
from compresskit.evaluation.losses import balanced_weights, make_loss, mean_loss, run_with_loss, task_loss

CPU = torch.device("cpu")


def test_auto_goes_by_the_task():
    logits, classes = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    assert task_loss(logits, classes) == F.cross_entropy(logits, classes)
    assert task_loss(logits, torch.ones(4, 3)) == F.mse_loss(logits, torch.ones(4, 3))
    labels = torch.tensor([[1, 0, 1]] * 4)
    assert task_loss(logits, labels) == F.binary_cross_entropy_with_logits(logits, labels.float())


def test_arguments_reach_the_function_and_misspelt_ones_are_named():
    loss = make_loss("huber", {"delta": 0.5})
    assert task_loss(torch.tensor([3.0]), torch.tensor([0.0]), loss=loss).item() == pytest.approx(0.5 * (3 - 0.25))
    weighted = make_loss("ce", {"class_weights": [1.0, 0.0]})
    assert task_loss(torch.zeros(2, 2), torch.tensor([0, 1]), 0.1, weighted).item() > 0
    with pytest.raises(
        InputError, match="task_loss_arg of loss 'huber': unknown argument 'dleta'; did you mean 'delta'"
    ):
        make_loss("huber", {"dleta": 1})
    with pytest.raises(InputError, match="task_loss_arg delta needs a loss by name"):
        make_loss("auto", {"delta": 1})
    with pytest.raises(InputError, match="label_smoothing would be ignored: loss 'huber'"):
        task_loss(torch.zeros(2, 2), torch.zeros(2, 2), 0.1, loss)


def test_blended_targets_take_the_loss_of_each():
    logits, mixed = torch.randn(4, 3), MixedTargets(torch.tensor([0, 1, 2, 1]), torch.tensor([1, 1, 0, 2]), 0.25)
    expected = 0.25 * F.cross_entropy(logits, mixed.first) + 0.75 * F.cross_entropy(logits, mixed.second)
    assert task_loss(logits, mixed).item() == pytest.approx(expected.item())
    with pytest.raises(InputError, match="takes no mixup"):
        run_with_loss(nn.Identity(), logits, mixed, make_loss("model"))


def test_the_mean_over_batches_of_different_sizes():
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    whole = F.cross_entropy(x, y).item()
    assert mean_loss(nn.Identity(), [(x[:4], y[:4]), (x[4:], y[4:])], CPU) == pytest.approx(whole)


def test_balanced_weights_by_hand():
    batches = [(None, torch.tensor([0, 0, 0])), (None, torch.tensor([1, -100]))]
    assert balanced_weights(batches, 2) == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])
    with pytest.raises(InputError, match="no example of class 2"):
        balanced_weights(batches, 3)
    with pytest.raises(InputError, match="there is a class 1, the model has 1"):
        balanced_weights(batches, 1)
    with pytest.raises(InputError, match="the targets are none"):
        balanced_weights([(None, torch.zeros(2))], 2)


def test_a_users_loss_and_one_that_returns_no_scalar(tmp_path):
    (tmp_path / "l.py").write_text(
        "def double(outputs, targets, factor=2.0):\n    return factor * (outputs - targets).abs().mean()\n"
        "def wrong(outputs, targets):\n    return outputs\n"
        "def breaks(outputs, targets):\n    return outputs + [targets]\n"
    )
    x, y = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    assert task_loss(x, y, loss=make_loss(f"{tmp_path}/l.py:double", {"factor": 3.0})).item() == 6
    with pytest.raises(InputError, match="must return a scalar tensor"):
        task_loss(torch.ones(2, 2), y, loss=make_loss(f"{tmp_path}/l.py:wrong"))
    with pytest.raises(InputError, match=r"task loss '.*l.py:breaks' raised TypeError: unsupported operand"):
        task_loss(x, y, loss=make_loss(f"{tmp_path}/l.py:breaks"))
