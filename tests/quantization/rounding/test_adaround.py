"""AdaRound: the paper's functions by hand, and its result against every choice of up and down."""

import itertools

import pytest
import torch

from compresskit.quantization.rounding.adaround import (
    adaround,
    inverse_rectified_sigmoid,
    rectified_sigmoid,
    regularization,
)
from compresskit.quantization.rounding.nearest import Problem, nearest


def test_rectified_sigmoid_by_hand():
    # sigmoid(0) * 1.2 - 0.1 = 0.5; sigmoid(5) * 1.2 - 0.1 > 1
    assert rectified_sigmoid(torch.tensor([0.0, 5.0, -5.0])).tolist() == [pytest.approx(0.5), 1.0, 0.0]
    shares = torch.tensor([0.02, 0.4, 0.97])
    torch.testing.assert_close(rectified_sigmoid(inverse_rectified_sigmoid(shares)), shares)


def test_regularization_by_hand():
    assert float(regularization(torch.tensor([0.0, 1.0]), 3.0)) == 0.0
    # 1 - |0|^2 + 1 - |0.5|^2
    assert float(regularization(torch.tensor([0.5, 0.75]), 2.0)) == pytest.approx(1.75)


@pytest.mark.integration
def test_every_weight_goes_up_or_down_and_the_choice_is_near_the_best(problem, error):
    given = problem(rows=1, columns=8, bits=3)
    scale, zero = given.grid.wide(8)
    floor = torch.floor(given.matrix / scale) + zero
    best = min(
        error(given, torch.clamp(floor + torch.tensor([choice]), 0, 7))
        for choice in itertools.product((0, 1), repeat=8)
    )
    codes = adaround(given)
    assert bool((((codes - floor) == 0) | ((codes - floor) == 1) | (codes == 0) | (codes == 7)).all())
    assert error(given, codes) <= 1.3 * best
    assert error(given, codes) < 0.8 * error(given, nearest(given))


@pytest.mark.integration
def test_it_never_does_worse_than_nearest_and_repeats_itself(problem, error):
    for seed in range(3):
        given = problem(rows=4, columns=12, bits=2, groups=2, seed=seed)
        codes = adaround(given)
        assert error(given, codes) <= error(given, nearest(given))
        assert torch.equal(codes, adaround(given))


def test_without_moments_it_rounds_to_nearest(problem):
    given = problem()
    assert torch.equal(adaround(Problem(given.matrix, given.grid)), nearest(given))
