"""SQuant: what its errors add up to, against every possible rounding and against the nearest."""

import itertools
from dataclasses import replace

import pytest
import torch

from compresskit.quantization.rounding.nearest import nearest
from compresskit.quantization.rounding.squant import squant


def errors_of(given, codes):
    """Rounding errors in steps, (rows, columns)."""
    scale, zero_point = given.grid.wide(given.matrix.shape[1])
    return codes - zero_point - given.matrix / scale


def loss(errors, kernel):
    """Squares of the errors of single weights, of kernels and of channels: eq. 8 with ones for its coefficients."""
    sums = errors.reshape(len(errors), -1, kernel).sum(2)
    return errors.square().sum(1) + sums.square().sum(1) + sums.sum(1).square()


def inside(given):
    """The same problem with all weights well inside of the grid, where any code can move."""
    scale, _ = given.grid.wide(given.matrix.shape[1])
    return replace(given, matrix=given.matrix.clamp(-4 * scale, 4 * scale))


@pytest.mark.parametrize(("kernel", "group_size"), [(1, None), (9, None), (9, 18), (4, 12)])
def test_errors_of_weights_kernels_and_channels_stay_within_the_papers_bounds(problem, kernel, group_size):
    granularity = "group" if group_size else "channel"
    for seed in range(5):
        given = inside(problem(rows=6, columns=36, bits=4, seed=seed, granularity=granularity, group_size=group_size))
        errors = errors_of(given, squant(replace(given, kernel=kernel)))
        sums = errors.reshape(6, -1, kernel).sum(2)
        channels = errors.reshape(6, -1, group_size or 36).sum(2)
        assert errors.abs().max() <= 1 + 1e-5 and sums.abs().max() <= 1 + 1e-5 and channels.abs().max() <= 0.5 + 1e-5
        assert errors_of(given, nearest(given)).reshape(6, -1, group_size or 36).sum(2).abs().max() > 0.5


@pytest.mark.integration
def test_comes_near_the_best_of_all_roundings_up_or_down(problem):
    ways = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)))
    total = torch.zeros(3)  # of the best, of squant, of nearest
    for seed in range(20):
        given = inside(problem(rows=1, columns=8, bits=4, seed=seed))
        scale, zero_point = given.grid.wide(8)
        down = (given.matrix / scale).floor() + zero_point
        best = min(float(loss(errors_of(given, down + way), 4)) for way in ways)
        codes = squant(replace(given, kernel=4)), nearest(given)
        found = [float(loss(errors_of(given, one), 4)) for one in codes]
        assert found[0] >= best - 1e-5
        total += torch.tensor([best, *found])
    assert total[1] < 0.8 * total[2] and total[1] < 1.2 * total[0], total


def test_outputs_of_inputs_with_a_mean_come_out_nearer_than_by_nearest(problem):
    given = problem(rows=16, columns=72, bits=3)
    inputs = torch.rand(500, 72) + 0.5
    lost = [
        (inputs @ (given.grid.values(codes) - given.matrix).T).square().mean()
        for codes in (squant(replace(given, kernel=9)), nearest(given))
    ]
    assert lost[0] < 0.5 * lost[1]


def test_codes_stay_on_the_grid_and_exact_weights_do_not_move(problem):
    given = problem(rows=5, columns=10, bits=2, group_size=4, granularity="group")  # the last group is narrower
    codes = squant(replace(given, matrix=3 * given.matrix))
    assert codes.shape == (5, 10) and codes.min() >= given.grid.lowest and codes.max() <= 3
    exact = replace(given, matrix=given.grid.values(nearest(given)))
    assert torch.equal(squant(exact), nearest(given))


def test_no_data_is_asked_for(run):
    facts = run(scheme="int4-weight", rounding="squant", first_last="same").facts
    assert facts["quantized_layers"] == 4
