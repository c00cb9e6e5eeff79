"""MXFP4: scales by the specification, nearest by brute force over all codes, and torchao's bits."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from compresskit.artifact.edits import replay
from compresskit.core.errors import InputError
from compresskit.quantization.formats.fixed_groups.mxfp4 import MXFP4, power_of_two
from compresskit.quantization.formats.number_format import Settings
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.options import QuantizeOptions

SPEC = Spec(("weight",), format="mxfp4", bits=4, granularity="group", group_size=32, packed=True)
SETTINGS = Settings(QuantizeOptions(scheme="mxfp4"))
#: table 5 of the specification: sign, two bits of exponent (bias 1), one of mantissa
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
E2M1 += [-value for value in E2M1]


def quantized(matrix):
    parts = MXFP4.quantize(matrix, SPEC, SETTINGS)
    return parts, MXFP4.dequantize(parts, SPEC)


def test_elements_are_those_of_their_bits():
    for code, value in enumerate(E2M1):
        sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
        magnitude = mantissa / 2 if exponent == 0 else 2 ** (exponent - 1) * (1 + mantissa / 2)
        assert value == (-1) ** sign * magnitude
    codes = torch.arange(16, dtype=torch.uint8).reshape(1, 16)
    parts = {"values": codes, "scale": torch.tensor([[127]], dtype=torch.uint8)}
    assert MXFP4.dequantize(parts, SPEC).tolist() == [E2M1]


@given(st.integers(1, 3), st.integers(1, 70), st.floats(-30, 30), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_every_weight_takes_the_nearest_code_of_its_block(rows, columns, magnitude, seed):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 2.0**magnitude
    parts, values = quantized(matrix)
    for row in range(rows):
        for block, start in enumerate(range(0, columns, 32)):
            weights = matrix[row, start : start + 32].double()
            scale = 2.0 ** (math.floor(math.log2(float(weights.abs().max()))) - 2)
            assert int(parts["scale"][row, block]) - 127 == math.log2(scale)
            errors = (weights.unsqueeze(1) - torch.tensor(E2M1, dtype=torch.float64) * scale).abs()
            found = (values[row, start : start + 32].double() - weights).abs()
            assert torch.equal(found, errors.amin(1))


def test_ties_go_to_the_even_code_and_large_weights_saturate():
    # the block's largest is 7, so its scale is 1; halfway points below round to a mantissa of 0
    matrix = torch.tensor([[7.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -5.0, -0.25]])
    _, values = quantized(matrix)
    assert values.tolist() == [[6.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -4.0, 0.0]]


def test_blocks_do_not_span_rows():
    matrix = torch.cat([torch.ones(1, 33), torch.full((1, 33), 1e-3)])
    parts, values = quantized(matrix)
    assert parts["scale"].shape == (2, 2)
    assert values[0].tolist() == [1.0] * 33
    torch.testing.assert_close(values[1], matrix[1], rtol=0.25, atol=0)


def test_zeros_and_the_ends_of_the_scale():
    smallest, largest = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
    for value in (0.0, smallest, -smallest / 4, largest):
        parts, values = quantized(torch.full((1, 32), value))
        assert bool(values.isfinite().all())
        torch.testing.assert_close(values, torch.full((1, 32), value), rtol=0.26, atol=2.0**-128)
    assert power_of_two(torch.tensor([0, 1, 127, 254], dtype=torch.uint8)).double().tolist() == [
        2.0**-127, 2.0**-126, 1.0, 2.0**127,
    ]  # fmt: skip
    assert bool(power_of_two(torch.tensor([255], dtype=torch.uint8)).isnan().all())


def test_bytes_a_weight():
    assert MXFP4.bytes(10, 64, SPEC) == 10 * (32 + 2)  # 4.25 bits
    assert MXFP4.bytes(10, 33, SPEC) == 165 + 20


@pytest.mark.parametrize("change", [{"bits": 8}, {"group_size": 16}, {"granularity": "tensor", "group_size": None}])
def test_specs_that_no_layer_has_are_refused(change):
    with pytest.raises(InputError, match="format 'mxfp4'"):
        replay(nn.Sequential(nn.Linear(64, 2)), [SPEC.as_edit("0") | change])


def test_agrees_with_torchao_bit_for_bit():
    peers = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    matrix = torch.randn(64, 128, generator=torch.Generator().manual_seed(3)) * torch.logspace(-6, 6, 64).unsqueeze(1)
    peer = peers.MXTensor.to_mx(matrix, torch.float4_e2m1fn_x2, 32)
    parts, values = quantized(matrix)
    assert torch.equal(values, peer.dequantize(torch.float32))
    assert torch.equal(parts["scale"], peer.scale.view(torch.uint8).reshape(64, 4))
    packed = MXFP4.pack(parts["values"], matrix.shape, SPEC)
    assert torch.equal(packed, peer.qdata.view(torch.uint8).reshape(-1))
