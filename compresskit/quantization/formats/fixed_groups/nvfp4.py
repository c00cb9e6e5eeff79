"""NVFP4: floats of 4 bits in blocks of 16 that share a float8, and one float32 for all blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from ...layers.layer_spec import Spec
from .. import uniform
from ..base import BaseFormat
from ..number_format import Parts, Settings, Stored
from .lookups import Lookup, by_rows
from .mxfp4 import MAGNITUDES, element_codes, elements

_BLOCK = 16
_LARGEST_ELEMENT = MAGNITUDES[-1]
_SCALES = torch.float8_e4m3fn
_LARGEST_SCALE = torch.finfo(_SCALES).max
_SMALLEST_SCALE = 2.0**-9  # e4m3's smallest subnormal


class BlockFloat4(BaseFormat):
    """value = E2M1 element * E4M3 scale of its block * float32 scale of the matrix; no block spans rows.

    The matrix's scale is its largest |weight| / (448 * 6), so that the largest block scale is 448; a block's is its
    largest |weight| / 6 over the matrix's scale, rounded to E4M3. Elements round to nearest, ties to even, and
    saturate.

    Source: NVIDIA, "Introducing NVFP4 for Efficient and Accurate Low-Precision Inference", 2025; TensorRT Model
        Optimizer's two-level scales.
    """

    bits = 4
    granularity = "group"
    group_size = _BLOCK

    def sides(self, rows: int, columns: int, spec: Spec) -> dict[str, Stored]:
        """A float8 a block, (rows, blocks), and a float32."""
        return {
            "block_scale": Stored((rows, -(-columns // _BLOCK)), _SCALES, "scales"),
            "scale": Stored((1,), torch.float32, "scales"),
        }

    def quantize(self, matrix: Tensor, spec: Spec, settings: Settings) -> dict[str, Tensor]:
        """The nearest element of each weight over its block's scale."""
        largest = uniform.group_columns(matrix.abs(), _BLOCK).amax(2)
        whole = (largest.max() / (_LARGEST_SCALE * _LARGEST_ELEMENT)).reshape(1)
        whole = torch.where(whole > torch.finfo(torch.float32).tiny, whole, torch.ones_like(whole))
        scale = (largest / _LARGEST_ELEMENT / whole).clamp(_SMALLEST_SCALE, _LARGEST_SCALE).to(_SCALES)
        wide = uniform.expand_groups(_combined(scale, whole), matrix.shape[1], _BLOCK)
        scaled = matrix.double() / wide.double()
        return {"values": element_codes(scaled), "block_scale": scale, "scale": whole}

    def dequantize(self, parts: Parts, spec: Spec) -> Tensor:
        """Element * scale of the block * scale of the matrix, in float32."""
        codes = parts["values"]
        scale = _combined(parts["block_scale"], parts["scale"])
        return elements().to(codes.device)[codes.long()] * uniform.expand_groups(scale, codes.shape[1], _BLOCK)

    def lookup(self, parts: Parts, spec: Spec) -> Lookup | None:
        """The elements are the table."""
        return by_rows(elements(), parts["values"], _combined(parts["block_scale"], parts["scale"]), _BLOCK)


def _combined(scale: Tensor, whole: Tensor) -> Tensor:
    """What a block's elements are multiplied by, (rows, blocks) float32."""
    return scale.float() * whole.float()


#: the row "nvfp4"
NVFP4 = BlockFloat4()
