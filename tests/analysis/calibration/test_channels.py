"""Statistics of channels against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.analysis.calibration.channels import ChannelMagnitudes, ChannelSums, channel_rows
from compresskit.analysis.calibration.collect import collect

CASES = [
    (nn.Linear(3, 2), (4, 3), -1),
    (nn.Linear(3, 2), (4, 5, 3), -1),
    (nn.Conv2d(3, 2, 3), (4, 3, 5, 6), 1),
    (nn.Conv1d(3, 2, 3), (3, 5), 0),  # without a batch
]


def _inputs(shape: tuple[int, ...]) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return torch.where(values < -0.5, 0.0, values)


@pytest.mark.parametrize(("layer", "shape", "axis"), CASES)
def test_sums_over_batches(layer, shape, axis):
    first, second = _inputs(shape), _inputs(shape)[:1] if len(shape) > 2 else _inputs(shape)
    one = collect(nn.Sequential(layer), {"0": ChannelSums()}, [first, second])["0"]
    rows = np.concatenate([np.moveaxis(x.numpy(), axis, -1).reshape(-1, 3) for x in (first, second)]).astype(float)
    assert one.count == len(rows)
    np.testing.assert_allclose(one.mean("magnitude"), np.abs(rows).mean(0), rtol=1e-5)
    np.testing.assert_allclose(one.mean("value"), rows.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one.mean("square"), (rows**2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(one.mean("zero"), (rows == 0).mean(0), rtol=1e-12)


@pytest.mark.parametrize(("layer", "shape", "axis"), CASES)
def test_magnitudes_are_weighted(layer, shape, axis):
    first, second = _inputs(shape), 2 * _inputs(shape)
    found = ChannelMagnitudes()
    found.update(layer, first, 3)
    found.update(layer, second, 1)
    rows = np.abs(np.moveaxis(first.numpy(), axis, -1).reshape(-1, 3))
    np.testing.assert_allclose(found.largest, 2 * rows.max(0), rtol=1e-6)
    np.testing.assert_allclose(found.mean(), (3 * rows.mean(0) + 2 * rows.mean(0)) / 4, rtol=1e-6)


def test_one_row_and_sixteen_bits():
    layer, x = nn.Linear(2, 2), torch.tensor([-3.0, 0.5])
    assert channel_rows(layer, x).tolist() == [[-3.0, 0.5]]
    found = ChannelMagnitudes()
    found.update(layer, x, 1)
    assert found.largest.tolist() == [3.0, 0.5]
    sums = ChannelSums()
    sums.update(layer, x.bfloat16(), x)
    assert sums.mean("square").tolist() == [9.0, 0.25] and sums.mean("square").dtype == torch.float64
