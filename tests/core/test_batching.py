"""Batches of evaluation, sized by what activations take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.core.batching import batch_within, evaluation_batch

MIB = 2**20


@pytest.mark.parametrize(
    ("example_bytes", "batch"), [(None, 256), (0, 256), (1, 256), (MIB, 48), (10 * MIB, 4), (48 * MIB, 1), (2**40, 1)]
)
def test_the_budget_over_an_examples_bytes(example_bytes, batch):
    assert batch_within(48 * MIB, example_bytes) == batch


def test_large_activations_make_small_batches():
    wide = nn.Sequential(nn.Linear(4, 2 * MIB), nn.ReLU(inplace=True), nn.Linear(2 * MIB, 1))  # 8 MiB an example
    assert 4 <= evaluation_batch(wide, torch.zeros(1, 4)) <= 6
    assert evaluation_batch(nn.Linear(4, 4), torch.zeros(1, 4)) == 256


def test_no_parameters_and_named_inputs():
    class Difference(nn.Module):
        def forward(self, a, b):
            return {"difference": [a - b]}

    assert evaluation_batch(Difference(), {"a": torch.zeros(1, 3), "b": torch.ones(1, 3)}) == 256
