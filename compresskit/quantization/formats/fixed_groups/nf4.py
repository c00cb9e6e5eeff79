"""NormalFloat of 4 bits (NF4): levels at quantiles of a normal distribution, blocks scaled by their largest weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...layers.layer_spec import Spec
from ...options import QuantizeOptions
from ..base import BaseFormat, scale_type_for
from ..number_format import Parts, Settings, Stored
from ..uniform import SMALLEST_SCALE
from .lookups import Lookup

#: the 16 levels, as appendix E of the paper prints them; code 7 is exactly zero
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip

_SCALES_A_BLOCK = 256  # scales that share a scale of their own under double quantization; section 3 of the paper
_LARGEST_INT8 = 127


class NormalFloat4(BaseFormat):
    """value = LEVELS[code] * largest |weight| of the block; blocks are runs of `group_size` weights of the flat matrix.

    With double quantization the scales are themselves int8: their mean is taken off, and each 256 of them share a
    float32 scale. The paper stores them in 8-bit floats; for scales of normal weights, int8 codes are 9 dB nearer (57.3
    against 47.9 dB, 512 x 512 weights).

    Args:
        double: whether the scales are quantized too.
    Source: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", NeurIPS 2023, section 3, eq. 4 and
        appendix E.
    """

    bits = 4
    granularity = "group"
    group_size = 64
    options = frozenset({"group_size"})

    def __init__(self, *, double: bool = False):
        self._double = double

    def geometry(self, bits: int, options: QuantizeOptions) -> dict[str, Any]:
        """Fields of a layer's Spec; scales that are quantized themselves are not rounded to float16 first."""
        return super().geometry(bits, options) | ({"scale_type": "float32"} if self._double else {})

    def fitted(self, spec: Spec, matrices: list[Tensor]) -> Spec:
        """The spec with scales in float32 where float16 would lose precision."""
        return scale_type_for([_largest(matrix, spec.needs_group_size()) for matrix in matrices], spec)

    def sides(self, rows: int, columns: int, spec: Spec) -> dict[str, Stored]:
        """One scale a block; under double quantization its int8 code, a scale for each 256 of them, and their mean."""
        blocks = -(-rows * columns // spec.needs_group_size())
        if not self._double:
            return {"scale": Stored((blocks,), getattr(torch, spec.scale_type), "scales")}
        return {
            "scale": Stored((blocks,), torch.int8, "scales"),
            "scale_step": Stored((-(-blocks // _SCALES_A_BLOCK),), torch.float32, "scales"),
            "scale_mean": Stored((1,), torch.float32, "scales"),
        }

    def quantize(self, matrix: Tensor, spec: Spec, settings: Settings) -> dict[str, Tensor]:
        """The nearest level of each weight over its block's scale as it is stored."""
        largest = _largest(matrix, spec.needs_group_size())
        if self._double:
            parts = _quantized_scales(largest)
        else:
            parts = {"scale": largest.to(getattr(torch, spec.scale_type))}
        scale = self._scales(parts).clamp(min=SMALLEST_SCALE)
        levels = torch.tensor(LEVELS, device=matrix.device)
        blocks = _blocks(matrix, spec.needs_group_size())
        codes = torch.bucketize(blocks / scale.unsqueeze(1), (levels[1:] + levels[:-1]) / 2)
        return {"values": codes.reshape(-1)[: matrix.numel()].reshape(matrix.shape), **parts}

    def dequantize(self, parts: Parts, spec: Spec) -> Tensor:
        """LEVELS[code] * scale."""
        codes, scale = parts["values"], self._scales(parts)
        levels = torch.tensor(LEVELS, dtype=scale.dtype, device=codes.device)
        blocks = _blocks(levels[codes.long()], spec.needs_group_size()) * scale.unsqueeze(1)
        return blocks.reshape(-1)[: codes.numel()].reshape(codes.shape)

    def lookup(self, parts: Parts, spec: Spec) -> Lookup | None:
        """The levels are the table."""
        return Lookup(torch.tensor(LEVELS), parts["values"], self._scales(parts), "flat", spec.needs_group_size())

    def _scales(self, parts: Parts) -> Tensor:
        """One float32 (or float64) scale a block."""
        if not self._double:
            scale = parts["scale"]
            return scale.float() if scale.dtype == torch.float16 else scale
        steps = parts["scale_step"].repeat_interleave(_SCALES_A_BLOCK)[: len(parts["scale"])]
        return parts["scale"].to(steps.dtype) * steps + parts["scale_mean"]


def _blocks(matrix: Tensor, size: int) -> Tensor:
    """Any shape -> (blocks, size), the last block filled up with zeros."""
    return pad(matrix.reshape(-1), (0, -matrix.numel() % size)).reshape(-1, size)


def _largest(matrix: Tensor, size: int) -> Tensor:
    return _blocks(matrix, size).abs().amax(1)


def _quantized_scales(scales: Tensor) -> dict[str, Tensor]:
    mean = scales.mean().reshape(1)
    off = _blocks(scales - mean, _SCALES_A_BLOCK)
    step = (off.abs().amax(1) / _LARGEST_INT8).clamp(min=SMALLEST_SCALE)
    codes = (off / step.unsqueeze(1)).round().reshape(-1)[: len(scales)]
    return {"scale": codes.to(torch.int8), "scale_step": step, "scale_mean": mean}


#: the rows "nf4" and "nf4-double"
NF4 = NormalFloat4()
NF4_DOUBLE = NormalFloat4(double=True)
