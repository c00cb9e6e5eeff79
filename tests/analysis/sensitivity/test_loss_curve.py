"""The loss curve between measured points."""

import pytest

from compresskit.analysis.sensitivity.loss_curve import loss_at


def test_loss_follows_power_laws_between_and_beyond_the_points():
    points = [(0.2, 0.01), (0.4, 0.04), (0.8, 0.64)]  # powers 2 and 4
    for error, loss in points:
        assert loss_at(points, error, power=2) == pytest.approx(loss)
    assert loss_at(points, 0.1, power=2) == pytest.approx(0.0025)
    assert loss_at(points, 0.2 * 2**0.5, power=2) == pytest.approx(0.02)
    assert loss_at(points, 0.4 * 2**0.5, power=2) == pytest.approx(0.16)
    assert loss_at(points, 1.6, power=2) == pytest.approx(10.24)
    assert loss_at(points, 0.0, power=2) == 0.0
    assert loss_at([(0.5, 0.1)], 1.0, power=2) == pytest.approx(0.4)


def test_loss_never_falls_where_the_measurement_is_noisy():
    points = [(0.2, 0.02), (0.4, 0.01), (0.8, 0.5)]
    losses = [loss_at(points, error / 50, power=2) for error in range(1, 50)]
    assert losses == sorted(losses)


def test_the_power_by_nature_holds_beside_one_point_and_the_steepest_beside_noisy_ones():
    assert loss_at([(0.1, 0.01), (0.2, 0.04)], 0.4, power=1) == pytest.approx(0.16)
    assert loss_at([(0.1, 0.3)], 0.2, power=1) == pytest.approx(0.6)
    assert loss_at([(0.1, 0.3)], 0.0, power=1) == 0.0
    assert loss_at([(0.1, 1e-6), (0.2, 1.0)], 0.4, power=1) == pytest.approx(16.0)
