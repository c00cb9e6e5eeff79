"""How a batch of inputs is passed to forward."""

from __future__ import annotations

import torch
from torch import nn

from compresskit.core.types import as_arguments, call

ONE, TWO = torch.ones(2, 3), torch.zeros(2, 3)


class Whole(nn.Module):
    def forward(self, batch, scale=1.0):
        return (batch["x"] - batch["y"]) * scale


class Named(nn.Module):
    def forward(self, x, y=None):
        return x if y is None else x - y


class Any(nn.Module):
    def forward(self, **batch):
        return batch["x"] - batch["y"]


def test_a_mapping_is_passed_by_name_or_whole_where_forward_knows_no_name_of_it():
    batch = {"x": ONE, "y": TWO}
    for module in (Whole(), Named(), Any()):
        assert torch.equal(call(module, batch), ONE)
    assert as_arguments(Whole(), batch) == ((batch,), {}) and as_arguments(Named(), batch) == ((), batch)


def test_names_that_forward_does_not_know_beside_one_that_it_knows_are_passed_and_refused_by_it():
    assert as_arguments(Named(), {"x": ONE, "z": TWO}) == ((), {"x": ONE, "z": TWO})


def test_tensors_and_tuples_are_passed_by_position():
    assert as_arguments(Named(), ONE) == ((ONE,), {}) and as_arguments(Named(), (ONE, TWO)) == ((ONE, TWO), {})
