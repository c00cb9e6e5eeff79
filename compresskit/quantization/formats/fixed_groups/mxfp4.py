"""MXFP4: floats of 4 bits in blocks of 32 that share a power of two."""

from __future__ import annotations

import torch
from torch import Tensor

from ...layers.layer_spec import Spec
from .. import uniform
from ..base import BaseFormat
from ..number_format import Parts, Settings, Stored
from .lookups import Lookup, by_rows

#: what codes 0 to 7 stand for: one sign bit (codes 8 to 15 are negative), two of exponent, one of mantissa
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

_BLOCK = 32
_LARGEST_EXPONENT = 2  # of an element: 6 is 1.5 * 2**2
_BIAS = 127
_SMALLEST_EXPONENT, _HIGHEST_EXPONENT = -127, 127


class MicroscalingFloat4(BaseFormat):
    """value = E2M1 element * 2**(scale - 127); blocks are 32 consecutive columns of a row, so no block spans rows.

    A block's scale is 2**(floor(log2(largest |weight|)) - 2), clipped to what E8M0 holds; elements round to nearest,
    ties to even, and saturate at 6.

    Source: Open Compute Project, "OCP Microscaling Formats (MX) Specification", version 1.0, 2023, sections 5.2, 5.3
        and 6.3.
    """

    bits = 4
    granularity = "group"
    group_size = _BLOCK

    def sides(self, rows: int, columns: int, spec: Spec) -> dict[str, Stored]:
        """A biased exponent a block, (rows, blocks)."""
        return {"scale": Stored((rows, -(-columns // _BLOCK)), torch.uint8, "scales")}

    def quantize(self, matrix: Tensor, spec: Spec, settings: Settings) -> dict[str, Tensor]:
        """The nearest element of each weight over its block's scale."""
        largest = uniform.group_columns(matrix.abs(), _BLOCK).amax(2)
        # frexp: largest = mantissa * 2**exponent with the mantissa in [0.5, 1), exact for subnormals too
        exponent = torch.frexp(largest).exponent - 1 - _LARGEST_EXPONENT
        exponent = torch.where(largest > 0, exponent, torch.full_like(exponent, _SMALLEST_EXPONENT))
        exponent = exponent.clamp(_SMALLEST_EXPONENT, _HIGHEST_EXPONENT)
        scale = (exponent + _BIAS).to(torch.uint8)
        scaled = matrix.double() / uniform.expand_groups(power_of_two(scale), matrix.shape[1], _BLOCK).double()
        return {"values": element_codes(scaled), "scale": scale}

    def dequantize(self, parts: Parts, spec: Spec) -> Tensor:
        """Element * 2**exponent, in float32."""
        codes = parts["values"]
        values = elements().to(codes.device)[codes.long()]
        return values * uniform.expand_groups(power_of_two(parts["scale"]), codes.shape[1], _BLOCK)

    def lookup(self, parts: Parts, spec: Spec) -> Lookup | None:
        """The elements are the table."""
        return by_rows(elements(), parts["values"], power_of_two(parts["scale"]), _BLOCK)


def elements() -> Tensor:
    """What codes 0 to 15 stand for."""
    return torch.tensor([sign * value for sign in (1.0, -1.0) for value in MAGNITUDES])


def power_of_two(biased: Tensor) -> Tensor:
    """What E8M0 bytes stand for: 2**(byte - 127) in float32, exactly; 255 is NaN."""
    bits = biased.to(torch.int32) << 23  # the exponent's place in a float32
    bits = torch.where(biased == 0, 1 << 22, bits)  # 2**-127 is subnormal
    return torch.where(biased == 255, torch.nan, bits.view(torch.float32))


def element_codes(scaled: Tensor) -> Tensor:
    """The code of the element nearest to each number, uint8 with the sign as bit 3; a tie takes the even code."""
    magnitudes = scaled.abs()
    known = torch.tensor(MAGNITUDES, dtype=magnitudes.dtype, device=magnitudes.device)
    middles = (known[1:] + known[:-1]) / 2
    below = torch.bucketize(magnitudes, middles)  # a tie goes down
    above = torch.bucketize(magnitudes, middles, right=True)  # a tie goes up
    return (torch.where(below % 2 == 0, below, above) + 8 * torch.signbit(scaled)).to(torch.uint8)


#: the row "mxfp4"
MXFP4 = MicroscalingFloat4()
