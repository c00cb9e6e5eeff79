"""Float8 weights: the nearest of all codes by brute force, scales that use the whole range, parts as stored."""

import pytest
import torch

from compresskit.quantization.formats.number_format import Settings
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.tables import FORMATS

DTYPES = {"float8": torch.float8_e4m3fn, "float8-e5m2": torch.float8_e5m2}


def spec(name):
    return Spec(("weight",), format=name, bits=8, granularity="channel", scale_type="float32")


@pytest.mark.parametrize("name", DTYPES)
def test_codes_are_the_nearest_of_all(name):
    matrix = torch.randn(4, 30, generator=torch.Generator().manual_seed(1))
    number_format = FORMATS.load(name)
    parts = number_format.quantize(matrix, spec(name), Settings(QuantizeOptions()))
    levels = torch.arange(256, dtype=torch.uint8).view(DTYPES[name]).float()
    levels = levels[levels.isfinite()]
    scaled = matrix / parts["scale"]
    nearest = levels[(scaled[..., None] - levels).abs().argmin(-1)]
    found = number_format.dequantize(parts, spec(name)) / parts["scale"]
    torch.testing.assert_close(found, nearest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DTYPES)
def test_the_largest_weight_of_a_row_is_the_largest_code(name):
    matrix = torch.tensor([[0.5, -3.0], [1e-3, 2e-4]])
    parts = FORMATS.load(name).quantize(matrix, spec(name), Settings(QuantizeOptions()))
    assert parts["values"].dtype == DTYPES[name]
    assert parts["values"].float().abs().amax(1).tolist() == [torch.finfo(DTYPES[name]).max] * 2
    assert parts["scale"].shape == (2, 1)
