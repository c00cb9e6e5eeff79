"""NF4: the published levels, nearest by brute force, blocks, double quantization, and torchao's numbers."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from compresskit.artifact.edits import replay
from compresskit.core.errors import InputError
from compresskit.quantization.formats.fixed_groups.nf4 import LEVELS, NF4, NF4_DOUBLE
from compresskit.quantization.formats.number_format import Settings
from compresskit.quantization.formats.uniform import sqnr_db
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.options import QuantizeOptions

SETTINGS = Settings(QuantizeOptions(scheme="nf4"))


def spec(size=64, name="nf4", scale_type="float32"):
    return Spec(("weight",), format=name, bits=4, granularity="group", group_size=size, scale_type=scale_type)


def round_trip(number_format, matrix, size=64, scale_type="float32"):
    parts = number_format.quantize(matrix, spec(size, scale_type=scale_type), SETTINGS)
    return parts, number_format.dequantize(parts, spec(size, scale_type=scale_type))


def test_levels_are_quantiles_of_the_normal_distribution():
    # eight positive and seven negative levels, the outermost at the quantile (1 - 1/32 + 1 - 1/30) / 2, and zero
    offset = 1 - (1 / 32 + 1 / 30) / 2
    from scipy.stats import norm

    positive = norm.ppf(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -norm.ppf(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    found = torch.tensor(sorted([*positive, *negative, 0.0]))
    assert pytest.approx((found / found.max()).tolist(), abs=2e-7) == LEVELS


@given(st.integers(1, 5), st.integers(1, 90), st.integers(2, 70), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_codes_are_the_nearest_levels(rows, columns, size, seed):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    parts, values = round_trip(NF4, matrix, size)
    blocks = matrix.reshape(-1).split(size)
    assert parts["scale"].tolist() == [float(block.abs().max()) for block in blocks]
    for block, ours, scale in zip(blocks, values.reshape(-1).split(size), parts["scale"], strict=True):
        every = torch.tensor(LEVELS) * scale
        best = (block.unsqueeze(1) - every).abs().amin(1)
        torch.testing.assert_close((block - ours).abs(), best, rtol=1e-5, atol=1e-7)


def test_zero_and_the_largest_weight_are_exact():
    matrix = torch.tensor([[0.0, -0.5, 0.25, 0.01], [0.0, 0.0, 0.0, 0.0]])
    _, values = round_trip(NF4, matrix, 4)
    assert values[0, :2].tolist() == [0.0, -0.5]
    assert values[1].tolist() == [0.0] * 4


def test_codes_are_chosen_for_the_scale_that_is_stored():
    matrix = torch.full((1, 4), 1.0001) * torch.tensor([1.0, 0.5, -0.9, 0.1])
    parts, values = round_trip(NF4, matrix, 4, "float16")
    assert parts["scale"].dtype == torch.float16
    assert float(values[0, 0]) == 1.0  # 1.0001 in float16


def test_a_tiny_scale_is_kept_in_float32():
    half = spec(scale_type="float16")
    assert NF4.fitted(half, [torch.ones(2, 64)]).scale_type == "float16"
    assert NF4.fitted(half, [torch.full((2, 64), 1e-6)]).scale_type == "float32"
    assert NF4.fitted(half, [torch.full((2, 64), 1e5)]).scale_type == "float32"
    assert NF4.fitted(half, [torch.zeros(2, 64)]).scale_type == "float16"


def test_double_quantization_keeps_scales_within_half_a_step():
    matrix = torch.randn(300, 128, generator=torch.Generator().manual_seed(0))
    single, values = round_trip(NF4, matrix)
    double, double_values = round_trip(NF4_DOUBLE, matrix)
    assert double["scale"].dtype == torch.int8 and double["scale_step"].shape == (3,)  # 600 blocks, 256 a step
    steps = double["scale_step"].repeat_interleave(256)[:600]
    restored = double["scale"] * steps + double["scale_mean"]
    assert bool(((restored - single["scale"]).abs() <= steps / 2 + 1e-7).all())
    assert sqnr_db(matrix, double_values) > sqnr_db(matrix, values) - 0.1


def test_bytes_a_weight():
    assert NF4.bytes(64, 128, spec(64)) == 64 * 128 + 4 * 128  # unpacked: a byte a code
    packed = Spec(("weight",), format="nf4", bits=4, granularity="group", group_size=64, packed=True)
    assert NF4.bytes(64, 128, packed) == 64 * 128 // 2 + 4 * 128
    # 4 + 8 / 64 + 32 / (64 * 256) bits, as in the paper, and 4 bytes for the mean
    assert NF4_DOUBLE.bytes(1024, 1024, packed) == 1024 * 1024 * (4 + 8 / 64 + 32 / (64 * 256)) / 8 + 4


@pytest.mark.parametrize("change", [{"bits": 3}, {"granularity": "channel", "group_size": None}])
def test_specs_that_no_layer_has_are_refused(change):
    edit = spec().as_edit("0") | change
    with pytest.raises(InputError, match="format 'nf4'"):
        replay(nn.Sequential(nn.Linear(64, 2)), [edit])


def test_agrees_with_torchao():
    peers = pytest.importorskip("torchao.quantization.quantize_.workflows.nf4.nf4_tensor")
    matrix = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
    peer = peers.to_nf4(matrix, 64, 256).get_original_weight()
    _, ours = round_trip(NF4_DOUBLE, matrix)
    # its levels have four decimals, its scales other steps, and a weight half way between levels may take the other
    apart = (ours - peer).abs()
    assert float((apart > 0.03).float().mean()) < 0.005
    assert float(apart.mean()) < 5e-3
    assert sqnr_db(matrix, ours) >= sqnr_db(matrix, peer)
