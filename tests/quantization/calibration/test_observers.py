"""Observers: values by hand, and that streaming equals one pass."""

import pytest
import torch

from compresskit.quantization.calibration.observers import (
    BINS,
    Entropy,
    Levels,
    MeanSquaredError,
    MinMax,
    MovingAverage,
    Percentile,
)
from compresskit.quantization.formats.uniform import range_to_scale, round_trip
from compresskit.quantization.tables import OBSERVERS


def feed(observer, *batches):
    for batch in batches:
        observer.update(torch.as_tensor(batch, dtype=torch.float32))
    return observer.range()


def test_min_max():
    assert feed(MinMax(), [1.0, -2.0], [5.0, 0.0]) == (-2.0, 5.0)


def test_moving_average_by_hand():
    low, high = feed(MovingAverage(), [0.0, 10.0], [-1.0, 20.0])
    assert (low, high) == (pytest.approx(-0.1), pytest.approx(11.0))


def test_percentile_cuts_one_percent_of_a_ramp():
    ramp = torch.linspace(-1, 1, 200_001)
    low, high = feed(Percentile(percentile=98.0), ramp)
    assert (low, high) == (pytest.approx(-0.98, abs=2e-3), pytest.approx(0.98, abs=2e-3))


def test_percentile_of_a_one_sided_tensor_cuts_only_above():
    low, high = feed(Percentile(percentile=90.0), torch.linspace(0, 1, 100_001))
    assert low == 0.0
    assert high == pytest.approx(0.9, abs=2e-3)


@pytest.mark.parametrize("name", ["percentile", "mse", "entropy"])
def test_histogram_observers_ignore_an_outlier_that_minmax_obeys(name):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200_000, generator=generator)
    values[0] = 60.0
    low, high = feed(OBSERVERS.load(name)(Levels(4, False), 99.9), values)
    assert -6 < low < -1
    assert 1 < high < 30


def test_mse_finds_the_brute_force_optimum():
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(1)).abs()

    def error(high):
        scale, zero_point = range_to_scale(torch.tensor(0.0), torch.tensor(float(high)), 3, symmetric=False)
        return float((round_trip(values, scale, zero_point, 3) - values).square().sum())

    _, high = feed(MeanSquaredError(Levels(3, False)), values)
    assert error(high) <= 1.02 * min(error(edge) for edge in torch.linspace(0.2, float(values.max()), 300))


def test_entropy_keeps_the_range_of_a_uniform_distribution():
    low, high = feed(Entropy(), torch.linspace(0, 1, 100_000))
    assert low == 0.0
    assert high > 0.95


@pytest.mark.parametrize("name", list(OBSERVERS))
def test_a_growing_range_counts_every_value_once(name):
    observer = OBSERVERS.load(name)()
    low, high = feed(observer, [0.5, -0.5], [3.0, 0.1], [-40.0, 7.0])
    assert -40.0 <= low <= 0.0 <= high <= 7.0
    if hasattr(observer, "counts"):
        assert observer.counts.sum() == 6
        assert observer.counts.numel() == BINS


@pytest.mark.parametrize("name", list(OBSERVERS))
def test_a_constant_zero_tensor_gives_an_empty_range(name):
    assert feed(OBSERVERS.load(name)(), torch.zeros(10)) == (0.0, 0.0)
