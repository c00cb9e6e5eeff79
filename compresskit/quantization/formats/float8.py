"""Floats of 8 bits, with one scale a tensor, channel or group."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layers.layer_spec import Spec
from ..tables import FORMATS
from . import uniform
from .base import BaseFormat, wide_scale
from .fixed_groups.lookups import Lookup, by_rows
from .number_format import Parts, Settings


class Float8(BaseFormat):
    """value = float8 * scale; each set of weights is scaled so that its largest is the format's largest.

    Args:
        dtype: torch.float8_e4m3fn (three bits of mantissa) or torch.float8_e5m2 (two, and a wider range).
    Source: Micikevicius et al., "FP8 Formats for Deep Learning", 2022, table 1.
    """

    options = FORMATS["float8"].attributes["options"]

    def __init__(self, dtype: torch.dtype):
        self._dtype = dtype

    def code_dtype(self, spec: Spec) -> torch.dtype:
        """The float8 type."""
        return self._dtype

    def quantize(self, matrix: Tensor, spec: Spec, settings: Settings) -> dict[str, Tensor]:
        """The weights over their scale, rounded to nearest (ties to even)."""
        low, high = uniform.weight_ranges(matrix, spec.granularity, spec.group_size)
        scale = (torch.maximum(-low, high) / torch.finfo(self._dtype).max).clamp(min=uniform.SMALLEST_SCALE)
        wide = uniform.expand_groups(scale, matrix.shape[1], spec.group_size)
        return {"values": (matrix / wide).to(self._dtype), "scale": scale}

    def dequantize(self, parts: Parts, spec: Spec) -> Tensor:
        """float8 * scale."""
        scale = wide_scale(parts, spec)
        return parts["values"].to(scale.dtype) * scale

    def lookup(self, parts: Parts, spec: Spec) -> Lookup | None:
        """The table holds what each byte stands for."""
        levels = torch.arange(256).to(torch.uint8).view(self._dtype).float()
        codes = parts["values"].contiguous().view(torch.uint8)
        return by_rows(levels, codes, parts["scale"], spec.group_size)


#: the rows "float8" and "float8-e5m2"
E4M3 = Float8(torch.float8_e4m3fn)
E5M2 = Float8(torch.float8_e5m2)
