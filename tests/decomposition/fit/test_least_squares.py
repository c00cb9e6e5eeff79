"""Maps of least squared error."""

from __future__ import annotations

import torch

from compresskit.analysis.calibration.moments import moments_of_rows
from compresskit.decomposition.fit.least_squares import regression

DOUBLE = torch.float64


def test_regression_is_least_squares_when_there_is_data_and_stays_when_there_is_none():
    g = torch.Generator().manual_seed(0)
    inputs, truth = torch.randn(200, 1, 5, generator=g, dtype=DOUBLE), torch.randn(3, 5, generator=g, dtype=DOUBLE)
    outputs = inputs[:, 0] @ truth.mT + 1.5
    start = torch.zeros(3, 5, dtype=DOUBLE)
    torch.testing.assert_close(
        regression(inputs, outputs, moments_of_rows(inputs), start, ridge=1e-9), truth, rtol=1e-6, atol=1e-6
    )
    constant = torch.zeros_like(inputs)
    start = torch.ones(3, 5, dtype=DOUBLE)
    torch.testing.assert_close(regression(constant, outputs, moments_of_rows(constant), start), start)
