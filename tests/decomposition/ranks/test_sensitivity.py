"""The loss curve between measured points, and the output change."""

import pytest
import torch

from compresskit.decomposition.ranks.sensitivity import loss_at, output_change


def test_loss_follows_power_laws_between_and_beyond_the_points():
    points = [(0.2, 0.01), (0.4, 0.04), (0.8, 0.64)]  # powers 2 and 4
    for error, loss in points:
        assert loss_at(points, error) == pytest.approx(loss)
    assert loss_at(points, 0.1) == pytest.approx(0.0025)
    assert loss_at(points, 0.2 * 2**0.5) == pytest.approx(0.02)
    assert loss_at(points, 0.4 * 2**0.5) == pytest.approx(0.16)
    assert loss_at(points, 1.6) == pytest.approx(10.24)
    assert loss_at(points, 0.0) == 0.0
    assert loss_at([(0.5, 0.1)], 1.0) == pytest.approx(0.4)


def test_loss_never_falls_where_the_measurement_is_noisy():
    points = [(0.2, 0.02), (0.4, 0.01), (0.8, 0.5)]
    losses = [loss_at(points, error / 50) for error in range(1, 50)]
    assert losses == sorted(losses)


def test_output_change_is_the_divergence_of_class_probabilities():
    wanted, got = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    p, q = torch.tensor([0.5, 0.5]), torch.softmax(got[0], 0)
    assert output_change(wanted, got) == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)
    assert output_change(wanted, wanted) == 0
    assert output_change(torch.ones(2, 3, 4), torch.full((2, 3, 4), 1.5)) == pytest.approx(0.25)
