"""What formats share: bytes of all parts, wide scales, and when float16 is too small for a scale."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.quantization.formats.base import BaseFormat, scale_type_for, wide_scale
from compresskit.quantization.layers.layer_spec import Spec


def spec(**fields):
    return Spec(("weight",), **{"format": "int", "bits": 4, "granularity": "group", "group_size": 3, **fields})


class Four(BaseFormat):
    bits = 4


@pytest.mark.parametrize(("packed", "expected"), [(True, 14 + 2 * 3 * 4), (False, 28 + 2 * 3 * 4)])
def test_bytes_count_codes_and_scales(packed, expected):
    # 4 x 7 codes of four bits; float16 scales of 3 groups in each of 4 rows
    assert Four().bytes(4, 7, spec(packed=packed, scale_type="float16")) == expected


def test_scales_are_spread_over_their_groups():
    parts = {"values": torch.zeros(1, 5), "scale": torch.tensor([[1.0, 2.0]], dtype=torch.float16)}
    wide = wide_scale(parts, spec())
    assert wide.dtype == torch.float32
    assert wide.tolist() == [[1.0, 1.0, 1.0, 2.0, 2.0]]


@pytest.mark.parametrize(("scale", "expected"), [(0.01, "float16"), (1e-6, "float32"), (1e5, "float32")])
def test_scales_that_float16_cannot_hold_stay_in_float32(scale, expected):
    assert scale_type_for([torch.tensor([[scale]])], spec(scale_type="float16")).scale_type == expected


def test_a_format_has_its_own_bits():
    Four().check(spec())
    with pytest.raises(InputError, match="cannot have bits=3"):
        Four().check(spec(bits=3))
