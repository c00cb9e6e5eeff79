"""Integer weights: codes by hand, zero points, groups, and the bits that they are stored in."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.quantization.formats.integer import best_search, grid_for, safe_scale_type
from compresskit.quantization.formats.number_format import Settings
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.tables import FORMATS

INTEGER = FORMATS.load("int")
SETTINGS = Settings(QuantizeOptions(scheme="int8-weight", weight_search="minmax"))


def spec(**fields):
    given = {"format": "int", "bits": 4, "granularity": "channel", "symmetric": True, "scale_type": "float32", **fields}
    return Spec(("weight",), **given)


def test_symmetric_codes_by_hand():
    parts = INTEGER.quantize(torch.tensor([[-7.0, 0.0, 3.4, 7.0]]), spec(), SETTINGS)
    assert parts["scale"].tolist() == [[1.0]]
    assert INTEGER.dequantize(parts, spec()).tolist() == [[-7.0, 0.0, 3.0, 7.0]]


def test_asymmetric_levels_hold_both_ends_and_zero():
    matrix = torch.tensor([[-1.0, 0.0, 14.0]])
    affine = spec(symmetric=False)
    parts = INTEGER.quantize(matrix, affine, SETTINGS)
    assert set(parts) == {"values", "scale", "zero_point"}
    assert torch.equal(INTEGER.dequantize(parts, affine), matrix)


def test_each_group_has_its_own_scale():
    groups = spec(granularity="group", group_size=2)
    parts = INTEGER.quantize(torch.tensor([[0.7, -0.7, 70.0, 7.0]]), groups, SETTINGS)
    assert parts["scale"].flatten().tolist() == pytest.approx([0.1, 10.0])
    assert INTEGER.dequantize(parts, groups).flatten().tolist() == pytest.approx([0.7, -0.7, 70.0, 10.0])


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_packing_and_back(bits):
    packed = spec(bits=bits, packed=True)
    codes = torch.randint(0, 2**bits, (3, 7), generator=torch.Generator().manual_seed(bits))
    stored = INTEGER.pack(codes, torch.Size((3, 7)), packed)
    assert stored.numel() == -(-21 * bits // 8)
    assert torch.equal(INTEGER.unpack(stored, torch.Size((3, 7)), packed).long(), codes)


def test_tiny_scales_stay_in_float32():
    options = QuantizeOptions(scheme="int4-weight", weight_search="minmax")
    half = spec(scale_type="float16")
    assert safe_scale_type(torch.tensor([[1.0, -1.0]]), half) == "float16"
    assert safe_scale_type(torch.tensor([[1e-6, -1e-6]]), half) == "float32"
    assert grid_for(torch.tensor([[7.0, -7.0]]), spec(), options).scale.tolist() == [[1.0]]


def test_bits_beyond_its_range_are_refused():
    with pytest.raises(InputError, match="cannot have bits=9"):
        INTEGER.check(spec(bits=9))


@pytest.mark.parametrize(
    ("bits", "group_size", "search"),
    [(8, 64, "minmax"), (4, 64, "minmax"), (3, 128, "minmax"), (2, 64, "even"), (4, 256, "mse"), (2, None, "mse")],
)
def test_ranges_are_found_as_suits_bits_and_groups(bits, group_size, search):
    chosen = spec(bits=bits, granularity="group" if group_size else "channel", group_size=group_size)
    assert best_search(chosen) == search
