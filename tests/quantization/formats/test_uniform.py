"""Uniform quantization against hand-computed values, torch's own operators and brute force."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from compresskit.quantization.formats import uniform


def test_symmetric_eight_bits_by_hand():
    scale, zero_point = uniform.range_to_scale(torch.tensor(-2.54), torch.tensor(1.0), 8, symmetric=True)
    assert float(scale) == pytest.approx(0.02)
    assert int(zero_point) == 128


def test_affine_by_hand():
    scale, zero_point = uniform.range_to_scale(torch.tensor(-1.0), torch.tensor(2.0), 2, symmetric=False)
    assert (float(scale), int(zero_point)) == (1.0, 1)
    codes = uniform.quantize(torch.tensor([-5.0, -0.4, 0.6, 9.0]), scale, zero_point, 2)
    assert codes.tolist() == [0, 1, 2, 3]
    assert uniform.dequantize(codes, scale, zero_point).tolist() == [-1.0, 0.0, 1.0, 2.0]


def test_two_bit_symmetric_uses_all_four_levels():
    # levels -2, -1, 0, 1 times the scale
    scale, _ = uniform.range_to_scale(torch.tensor(-4.0), torch.tensor(1.5), 2, symmetric=True)
    assert float(scale) == 2.0


def test_a_range_above_zero_is_widened_to_hold_zero():
    scale, zero_point = uniform.range_to_scale(torch.tensor(1.0), torch.tensor(2.55), 8, symmetric=False)
    assert int(zero_point) == 0
    assert float(scale) == pytest.approx(0.01)


@settings(deadline=None, max_examples=40)
@given(low=st.floats(-10, -0.01), high=st.floats(0.01, 10), seed=st.integers(0, 99))
def test_agrees_with_torch_fake_quantize(low, high, seed):
    values = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 5
    scale, zero_point = uniform.range_to_scale(torch.tensor(low), torch.tensor(high), 8, symmetric=False)
    expected = torch.fake_quantize_per_tensor_affine(values, float(scale), int(zero_point), 0, 255)
    ours = uniform.round_trip(values, scale, zero_point, 8)
    # torch multiplies by the reciprocal: ties may fall to the other side
    assert float((ours - expected).abs().max()) <= float(scale) * 1.001
    assert float((ours != expected).float().mean()) <= 0.05


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity, shape", [("tensor", (1, 1)), ("channel", (5, 1)), ("group", (5, 3))])
def test_unclipped_weights_are_off_by_half_a_step_at_most(bits, symmetric, granularity, shape):
    matrix = torch.randn(5, 10, generator=torch.Generator().manual_seed(3))
    grid = uniform.make_grid(matrix, bits, granularity, 4, symmetric=symmetric, search="minmax", scale_type="float32")
    assert grid.scale.shape == shape
    error = (grid.values(grid.nearest(matrix)) - matrix).abs()
    # an affine zero point is rounded, which may cost another half step at the far end
    assert bool((error <= grid.wide(10)[0] * (0.5001 if symmetric else 1.0001)).all())


def test_group_scales_come_from_their_own_columns():
    matrix = torch.tensor([[1.0, -127.0, 2.54, 0.0, 12.7]])
    grid = uniform.make_grid(matrix, 8, "group", 2, symmetric=True, search="minmax", scale_type="float32")
    assert grid.scale.tolist()[0] == pytest.approx([1.0, 0.02, 0.1])
    assert grid.values(grid.nearest(matrix))[0].tolist() == pytest.approx([1.0, -127.0, 2.54, 0.0, 12.7])


def test_least_error_search_beats_minmax_and_brute_force_agrees():
    matrix = torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    minmax = uniform.make_grid(matrix, 3, "channel", None, symmetric=True, search="minmax", scale_type="float32")
    searched = uniform.make_grid(matrix, 3, "channel", None, symmetric=True, search="mse", scale_type="float32")

    def error(scale):
        return float((uniform.round_trip(matrix, scale, 4, 3) - matrix).square().sum())

    brute = min(error(minmax.scale * share) for share in torch.linspace(0.05, 1, 500))
    assert error(searched.scale) < 0.6 * error(minmax.scale)
    assert error(searched.scale) <= brute * 1.02


def test_an_all_zero_row_stays_zero():
    matrix = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    for search in ("minmax", "mse"):
        grid = uniform.make_grid(matrix, 4, "channel", None, symmetric=True, search=search, scale_type="float32")
        assert grid.values(grid.nearest(matrix))[0].tolist() == [0.0, 0.0]


def test_sqnr_by_hand():
    assert uniform.sqnr_db(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(20.0)
    assert uniform.sqnr_db(torch.ones(2), torch.ones(2)) == math.inf


def test_even_ranges_reach_equally_far_to_both_sides_and_clip_half_a_step():
    matrix = torch.tensor([[1.5, -1.5, 0.6, 0.0], [3.0, -0.5, 1.0, 0.2]])
    scale, middle = uniform.weight_scale(matrix, 2, "channel", search="even")
    assert scale.flatten().tolist() == pytest.approx([1.0, 2.0]) and middle.flatten().tolist() == [2, 2]
    grid = uniform.make_grid(matrix, 2, "channel", None, symmetric=True, search="even", scale_type="float32")
    assert grid.values(grid.nearest(matrix))[0].tolist() == [1.0, -2.0, 1.0, 0.0]  # ties go to the even code
    covering, _ = uniform.weight_scale(matrix, 8, "channel", search="minmax")
    assert torch.equal(uniform.weight_scale(matrix, 8, "channel", search="even")[0], covering)  # -128 is left out
