"""NVFP4: scales on two levels, nearest by brute force over all codes, and torchao's numbers."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from compresskit.artifact.edits import replay
from compresskit.core.errors import InputError
from compresskit.quantization.formats.fixed_groups.nvfp4 import NVFP4
from compresskit.quantization.formats.number_format import Settings
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.options import QuantizeOptions
from tests.quantization.formats.fixed_groups.test_mxfp4 import E2M1

SPEC = Spec(("weight",), format="nvfp4", bits=4, granularity="group", group_size=16, packed=True)
SETTINGS = Settings(QuantizeOptions(scheme="nvfp4"))


def quantized(matrix):
    parts = NVFP4.quantize(matrix, SPEC, SETTINGS)
    return parts, NVFP4.dequantize(parts, SPEC)


@given(st.integers(1, 3), st.integers(1, 40), st.floats(-20, 20), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_every_weight_takes_the_nearest_code_of_its_block(rows, columns, magnitude, seed):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 2.0**magnitude
    parts, values = quantized(matrix)
    whole = float(parts["scale"])
    assert whole == pytest.approx(float(matrix.abs().max()) / (448 * 6), rel=1e-6)
    assert float(parts["block_scale"].float().max()) == 448
    for row in range(rows):
        for block, start in enumerate(range(0, columns, 16)):
            weights = matrix[row, start : start + 16].double()
            wanted = torch.tensor(float(weights.abs().max()) / 6 / whole).clamp(2.0**-9, 448).to(torch.float8_e4m3fn)
            scale = float(parts["block_scale"][row, block].float())
            assert scale == pytest.approx(float(wanted.float()), rel=0.13)  # a tie may go either way
            errors = (weights.unsqueeze(1) - torch.tensor(E2M1, dtype=torch.float64) * scale * whole).abs()
            found = (values[row, start : start + 16].double() - weights).abs()
            torch.testing.assert_close(found, errors.amin(1), rtol=1e-5, atol=1e-6 * scale * whole)


def test_values_by_hand():
    # the largest is 6 * 448, so that the matrix's scale is 1; the second block's is 2
    matrix = torch.cat(
        [torch.tensor([[2688.0, -448.0, 224.0]]), torch.zeros(1, 13), torch.tensor([[12.0, 5.0, -1.0]])], 1
    )
    parts, values = quantized(matrix)
    assert parts["scale"].item() == 1.0 and parts["block_scale"].float().tolist() == [[448.0, 2.0]]
    assert values[0, [0, 1, 2, 16, 17, 18]].tolist() == [2688.0, -448.0, 224.0, 12.0, 4.0, -1.0]


def test_zeros_stay_zero_and_bytes_a_weight():
    _, values = quantized(torch.zeros(2, 20))
    assert torch.equal(values, torch.zeros(2, 20))
    assert NVFP4.bytes(10, 64, SPEC) == 10 * (32 + 4) + 4  # 4.5 bits


def test_specs_that_no_layer_has_are_refused():
    with pytest.raises(InputError, match="format 'nvfp4'"):
        replay(nn.Sequential(nn.Linear(64, 2)), [SPEC.as_edit("0") | {"group_size": 32}])


def test_agrees_with_torchao():
    peers = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    matrix = torch.randn(32, 128, generator=torch.Generator().manual_seed(3))
    parts, values = quantized(matrix)
    peer = peers.NVFP4Tensor.to_nvfp4(matrix, per_tensor_scale=parts["scale"].reshape(()))
    assert torch.equal(parts["block_scale"].view(torch.uint8), peer.scale.view(torch.uint8).reshape(32, 8))
    found = peer.dequantize(torch.float32)
    assert (found == values).float().mean() > 0.999  # it multiplies by a reciprocal, which moves ties
    torch.testing.assert_close(found, values, rtol=0.5, atol=1e-6)
