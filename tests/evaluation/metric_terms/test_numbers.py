"""Errors of numbers, by hand and against scikit-learn."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.evaluation.metric_terms.numbers import mae, mse, shaped_alike
from compresskit.evaluation.metrics import make_metric


def test_by_hand():
    outputs, targets = torch.tensor([[1.0, 2], [0, 0]]), torch.tensor([[0.0, 0], [3, 4]])
    assert mse(outputs, targets).tolist() == [2.5, 12.5] and mae(outputs, targets).tolist() == [1.5, 3.5]
    assert mae(torch.ones(2, 1), torch.zeros(2)).tolist() == [1, 1]


def test_nothing_is_stretched():
    with pytest.raises(InputError, match="do not fit"):
        shaped_alike(torch.ones(4, 3), torch.ones(4, 1))
    with pytest.raises(InputError, match="4 outputs stand against 2 targets"):
        shaped_alike(torch.ones(4, 1), torch.ones(2, 2))


def test_r2_is_that_of_scikit_learn():
    pytest.importorskip("torchmetrics")
    from sklearn.metrics import r2_score

    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(90, 2, generator=generator)
    outputs = targets + 0.5 * torch.randn(90, 2, generator=generator)
    batches = [(outputs[i : i + 40], targets[i : i + 40]) for i in range(0, 90, 40)]
    score = make_metric("r2")(torch.nn.Identity(), batches)
    assert score.value == pytest.approx(r2_score(targets, outputs), abs=1e-6)
    assert score.low < score.value < score.high < score.low + 0.3 and score.samples == 90
