"""Batches of evaluation, sized by what activations take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.batch_size import batch_within, evaluation_batch

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


@pytest.mark.parametrize("eval_batch", [None, 7])
@pytest.mark.integration
def test_evaluation_batches_are_chosen_or_obeyed_and_change_no_figure(eval_batch):
    from compresskit.pipeline.opening import open_context
    from compresskit.pipeline.recipe import RecipeOptions

    options = RecipeOptions(model="builtin:digits_cnn_small", data="digits", device="cpu", eval_batch=eval_batch)
    context = open_context(options)
    assert context.eval_batch == (eval_batch or 256)
    batches = context.data.batches("test", batch_size=context.eval_batch)
    one_by_one = context.data.batches("test", batch_size=100)
    assert context.metric(context.original.module, batches) == context.metric(context.original.module, one_by_one)
