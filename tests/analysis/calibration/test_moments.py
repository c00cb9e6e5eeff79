"""Moments against numpy, whatever the batches, groups and number types."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.analysis.calibration.collect import collect
from compresskit.analysis.calibration.moments import (
    InputMoments,
    MomentSums,
    Precision,
    RegressionSums,
    add_products,
    moments_of_rows,
    output_error,
)
from compresskit.analysis.calibration.positions import per_batch, per_example


def _rows(count: int, groups: int, columns: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(count, groups, columns, generator=generator, dtype=torch.float64) + 3).to(dtype)


def _numpy(rows: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean, mean of x x^T, covariance) of each group."""
    parts = [part.double().numpy() for part in rows.unbind(1)]
    return (
        np.stack([part.mean(0) for part in parts]),
        np.stack([part.T @ part / len(part) for part in parts]),
        np.stack([np.cov(part.T, bias=True).reshape(part.shape[1], -1) for part in parts]),
    )


@pytest.mark.parametrize(("groups", "columns"), [(1, 4), (3, 2), (5, 1)])
@pytest.mark.parametrize("sizes", [[11], [1, 4, 6], [10, 1]])
def test_sums_over_batches_are_the_moments_of_all_rows(groups, columns, sizes):
    rows = _rows(11, groups, columns)
    sums = MomentSums()
    for part in rows.split(sizes):
        sums.update(part)
    assert sums.count == 11
    for ours, expected in zip((sums.mean(), sums.second_moment(), sums.covariance()), _numpy(rows), strict=True):
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-10, atol=1e-12)
    in_memory, result = moments_of_rows(rows), sums.result()
    assert result.count == in_memory.count == 11
    torch.testing.assert_close(result.covariance, in_memory.covariance)
    torch.testing.assert_close(result.mean, in_memory.mean)
    some = torch.tensor([columns - 1, 0])
    torch.testing.assert_close(result.of_columns(some).covariance, moments_of_rows(rows[:, :, some]).covariance)
    torch.testing.assert_close(result.of_columns(some).mean, moments_of_rows(rows[:, :, some]).mean)


@pytest.mark.parametrize(
    ("precision", "columns", "sums_in"),
    [
        (Precision(), 6, torch.float64),
        (Precision(widest=6), 6, torch.float64),
        (Precision(widest=5), 6, torch.float32),
        (Precision(products=torch.float64, widest=6), 6, torch.float64),
        (Precision(products=torch.float64, widest=5), 6, torch.float32),
    ],
)
def test_wide_layers_are_summed_in_float32(precision, columns, sums_in):
    rows = _rows(50, 2, columns, torch.float32)
    sums = MomentSums(precision)
    for part in rows.split(20):
        sums.update(part)
    assert sums.second.dtype == sums.first.dtype == sums_in
    expected = _numpy(rows)[1]
    np.testing.assert_allclose(sums.second_moment().double().numpy(), expected, rtol=3e-6)


def test_products_in_float64_keep_what_float32_loses():
    rows = torch.tensor([[[1e4]], [[1.0]], [[-1e4]], [[1.0]]])
    exact, rounded = MomentSums(Precision(products=torch.float64)), MomentSums(Precision())
    exact.update(rows)
    rounded.update(rows)
    assert float(exact.second) == 2e8 + 2
    assert float(rounded.second) != float(exact.second)


def test_products_are_added_in_place():
    left, right = _rows(7, 3, 2), _rows(7, 3, 4)
    sums = torch.ones(3, 2, 4, dtype=torch.float64)
    add_products(sums, left, right)
    torch.testing.assert_close(sums, 1 + torch.einsum("ngi,ngj->gij", left, right))


def test_regression_sums_give_numpys_least_squares():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    sums = RegressionSums(5, 3, torch.device("cpu"))
    for begin in (0, 10, 30):
        sums.update(x[begin:][: 10 if begin != 10 else 20], y[begin:][: 10 if begin != 10 else 20])
    solved = torch.linalg.solve(sums.inputs.second[0], sums.cross)
    np.testing.assert_allclose(solved.numpy(), np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0], rtol=1e-9)
    np.testing.assert_allclose(sums.outputs.numpy(), y.numpy().sum(0))
    assert sums.energy == pytest.approx(float((y**2).sum())) and sums.inputs.count == 40


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, 2, 1, groups=2), (5, 4, 7, 6)),
        (nn.Conv1d(4, 4, 3, groups=4, dilation=2), (5, 4, 9)),
        (nn.Conv3d(2, 3, 2), (5, 2, 3, 4, 3)),
        (nn.Linear(4, 3), (5, 6, 4)),
    ],
)
def test_a_layers_moments_are_numpys_of_its_unfolded_inputs(layer, shape):
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(2)) + 1
    batches, everything = list(inputs.split(2)), per_batch(10**6, torch.Generator())
    sums = collect(nn.Sequential(layer), {"0": InputMoments(everything)}, batches)["0"].sums
    mean, second, covariance = _numpy(_unfolded(layer, inputs))
    np.testing.assert_allclose(sums.mean().numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums.second_moment().numpy(), second, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sums.covariance().numpy(), covariance, rtol=1e-4, atol=1e-5)


def _unfolded(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Rows by convolving with kernels that pick one tap each."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, 1, layer.in_features)
    taps = layer.weight[0, 0].numel()
    per_group = layer.in_channels // layer.groups
    pick = torch.eye(per_group * taps).reshape(per_group * taps, per_group, *layer.kernel_size)
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(layer.kernel_size)]
    picked = convolve(
        inputs, pick.repeat(layer.groups, *[1] * (pick.dim() - 1)), None, layer.stride, layer.padding, layer.dilation,
        layer.groups,
    )  # fmt: skip
    return picked.movedim(1, -1).reshape(-1, layer.groups, per_group * taps)


def test_sampled_moments_are_those_of_the_sampled_rows():
    layer, inputs = nn.Conv2d(2, 3, 3).double(), torch.randn(4, 2, 6, 5, dtype=torch.float64)
    sample = per_example(5, torch.Generator().manual_seed(3))
    sums = collect(nn.Sequential(layer), {"0": InputMoments(sample)}, [inputs])["0"].sums
    chosen = torch.randperm(12, generator=torch.Generator().manual_seed(3))[:5]
    unfolded = F.unfold(inputs, 3)[:, :, chosen].transpose(1, 2).reshape(-1, 1, 18)
    assert sums.count == 20
    np.testing.assert_allclose(sums.second_moment().numpy(), _numpy(unfolded)[1], rtol=1e-10)


def test_output_error_is_the_measured_one():
    layer, inputs = nn.Conv2d(4, 6, 3, groups=2, bias=False).double(), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    everything = per_batch(10**6, torch.Generator())
    sums = collect(nn.Sequential(layer), {"0": InputMoments(everything)}, [inputs])["0"].sums
    delta = torch.randn_like(layer.weight) * 0.1
    measured = F.conv2d(inputs, delta, groups=2).square().sum(1).mean()
    torch.testing.assert_close(output_error(delta.flatten(1), sums.second_moment()), measured)
