"""GPTQ against a plain transcription of its algorithm and against every possible rounding."""

import itertools
from dataclasses import replace

import torch

from compresskit.quantization.formats.uniform import Grid, weight_scale
from compresskit.quantization.rounding.gptq import _damping, _inverse_factor, _is_better, _rounded, gptq
from compresskit.quantization.rounding.nearest import Problem, nearest


def grid_parts(given):
    return given.grid.scale, given.grid.zero_point


def transcription(given):
    """Algorithm 1 with blocks of one column, columns in order of falling energy."""
    hessian = given.moments[0] * 2
    columns = hessian.shape[0]
    order = hessian.diagonal().argsort(descending=True)
    weights = given.matrix.double()[:, order]
    scales, zeros = (part.expand(len(weights), columns)[:, order] for part in given.grid.wide(columns))
    hessian = hessian[order][:, order] + 0.01 * hessian.diagonal().mean() * torch.eye(columns)
    inverse = torch.linalg.inv(hessian)
    codes = torch.zeros_like(weights)
    for i in range(columns):
        scale, zero = scales[:, i : i + 1], zeros[:, i : i + 1]
        codes[:, i : i + 1] = torch.clamp(
            torch.round(weights[:, i : i + 1] / scale) + zero, given.grid.lowest, 2**given.grid.bits - 1
        )
        rounding_error = (weights[:, i] - ((codes[:, i : i + 1] - zero) * scale)[:, 0]) / inverse[i, i]
        weights = weights - rounding_error[:, None] * inverse[i][None]
        # remove row and column i from the inverse (eq. 3)
        inverse = inverse - inverse[:, i : i + 1] @ inverse[i : i + 1] / inverse[i, i]
    return codes[:, order.argsort()].float()


def test_equals_the_algorithm_done_one_column_at_a_time(problem):
    given = problem(rows=4, columns=10)
    assert torch.equal(gptq(given), transcription(given))


def test_beats_nearest_and_comes_near_the_best_of_all_roundings(problem, error):
    given = problem(rows=1, columns=6, bits=2, seed=3)
    best = min(
        error(given, torch.tensor([codes], dtype=torch.float32)) for codes in itertools.product(range(4), repeat=6)
    )
    assert error(given, nearest(given)) > 1.5 * error(given, gptq(given))
    assert error(given, gptq(given)) <= 3 * best


def test_blocks_change_nothing(problem, error):
    given = problem(rows=2, columns=150, bits=4)
    assert error(given, gptq(given)) < 0.7 * error(given, nearest(given))
    assert torch.equal(gptq(given), transcription(given))


def test_each_column_keeps_the_scale_of_its_group_whatever_the_order(problem):
    given = problem(rows=3, columns=150)
    scale, zero_point = weight_scale(given.matrix, 4, "group", 32)  # the last group is narrower
    grid = Grid(scale, zero_point, 4, 1, 32)
    given = replace(given, grid=grid)
    assert torch.equal(gptq(given), transcription(given))


def test_weight_groups_of_a_grouped_convolution_are_rounded_by_themselves(problem):
    one, other = problem(rows=4, columns=12, seed=1), problem(rows=4, columns=12, seed=2)
    # the same moments in both groups, so that both are rounded in the same order
    grid = Grid(*(torch.cat(parts) for parts in zip(grid_parts(one), grid_parts(other), strict=True)), one.grid.bits)
    both = Problem(torch.cat([one.matrix, other.matrix]), grid, torch.cat([one.moments, one.moments]))
    alone = [gptq(one), gptq(Problem(other.matrix, other.grid, one.moments))]
    assert torch.equal(gptq(both), torch.cat(alone))


def test_group_scales_and_inputs_that_are_never_used(problem):
    given = problem(rows=3, columns=8, granularity="group", group_size=3)
    given.moments[:, 2] = 0
    given.moments[:, :, 2] = 0
    codes = gptq(given)
    assert torch.equal(codes[:, 2], nearest(given)[:, 2])
    assert codes.min() >= 0 and codes.max() <= 7


def test_without_moments_it_rounds_to_nearest(problem):
    given = problem()
    assert torch.equal(gptq(Problem(given.matrix, given.grid)), nearest(given))


def test_the_loop_knows_its_own_output_error_under_damped_moments(problem):
    given = problem(rows=5, columns=140, bits=3)
    moments, order = given.moments.double(), torch.randperm(140)
    damping = _damping(moments)
    factor = _inverse_factor(moments[:, order[:, None], order], damping[:, order])
    codes, squares = _rounded(given, order, factor)
    delta = (given.grid.values(codes) - given.matrix).double()
    damped = moments[0] + damping[0].diag()
    torch.testing.assert_close(squares[0], ((delta @ damped) * delta).sum(1), rtol=1e-4, atol=1e-12)


def test_nearest_wins_where_it_loses_less(problem, error):
    given = problem(rows=200, columns=20, bits=3)
    each = (given.grid.values(nearest(given)) - given.matrix).double()
    errors = ((each @ given.moments[0].double()) * each).sum(1)[None]
    assert _is_better(errors * 0.5, given, given.moments) and _is_better(errors * 0.99, given, given.moments)
    assert not _is_better(errors * 1.01, given, given.moments)
