"""One training step on a copy names what does not fit, and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.tensors.randomness import unchanged_random_state
from compresskit.core.types import Loaded
from compresskit.data.dataset import open_data
from compresskit.training.context import Context
from compresskit.training.options import TrainOptions
from compresskit.training.train_check import check_training


class Head(nn.Module):
    """A linear layer whose output a function changes."""

    def __init__(self, change=lambda x: x, classes: int = 10):
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.layer = nn.Linear(64, classes)
        self.change = change

    def forward(self, x):
        return self.change(self.layer(self.norm(x.flatten(1))))


def check(module: nn.Module, objective=None, **options) -> None:
    loaded = Loaded(module.eval(), {"kind": "builtin"}, torch.zeros(1, 1, 8, 8))
    context = Context(loaded, open_data("digits"))
    check_training(loaded, TrainOptions(**options), context, objective=objective)


def test_a_step_that_works_leaves_the_model_as_it_was():
    module = Head()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check(module, mixup=0.4, augment=["crop"], label_smoothing=0.1)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not module.training and all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Head(lambda x: x * float("inf")), "the loss of 2 training examples of data 'digits' is nan"),
        (Head(lambda x: x.detach()), "does not train on data 'digits': RuntimeError: element 0 of tensors does not"),
        (Head(lambda x: x[:, None, None]), "targets of shape .2. do not fit outputs of shape"),
        (Head().requires_grad_(False), "no trainable parameters"),
    ],
)
def test_what_does_not_train_is_named(module, says):
    with pytest.raises(InputError, match=says):
        check(module)


def test_the_objective_is_the_one_that_will_be_used():
    seen = []

    def objective(module, inputs, targets):
        seen.append((inputs.shape, targets.shape, module.training))
        raise ValueError("no such class")

    with pytest.raises(InputError, match="does not train on data 'digits': ValueError: no such class"):
        check(Head(), objective=objective)
    assert seen == [((2, 1, 8, 8), (2,), True)]


def test_a_batch_is_as_small_as_the_training_s():
    with pytest.raises(InputError, match="Expected more than 1 value per channel when training"):
        check(Head(), batch_size=1)


def test_random_states_are_put_back():
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    with pytest.raises(KeyError), unchanged_random_state():
        torch.rand(7), np.random.rand(7)
        raise KeyError
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all()
