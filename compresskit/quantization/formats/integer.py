"""Uniform integer levels: one scale a tensor, channel or group, symmetric or with a zero point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..layers.layer_spec import Spec
from ..options import QuantizeOptions
from ..rounding.nearest import Problem
from ..tables import FORMATS, ROUNDINGS
from . import uniform
from .base import BaseFormat, wide_scale
from .fixed_groups.lookups import Lookup, by_rows
from .number_format import Parts, Settings, Stored

#: weights of a group up to which it seldom holds outliers
_LARGEST_GROUP = 128


class Integer(BaseFormat):
    """value = (code - zero_point) * scale, codes in [0, 2**bits); symmetric ranges have no stored zero point.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", CVPR 2018, section 2.1.
    """

    lowering = "integers"
    options = FORMATS["int"].attributes["options"]

    @property
    def bits_range(self) -> tuple[int, int]:
        """The fewest and most bits that it can have."""
        fewest, most = FORMATS["int"].attributes["bits_range"]
        return fewest, most

    def geometry(self, bits: int, options: QuantizeOptions) -> dict[str, Any]:
        """Fields of a layer's Spec that the format decides."""
        symmetric = {"symmetric": options.weight_range == "symmetric"}
        if bits == 8 and options.uses_half_range():
            return super().geometry(7, options) | symmetric | {"packed": False}  # still a byte each
        return super().geometry(bits, options) | symmetric

    def fitted(self, spec: Spec, matrices: list[Tensor]) -> Spec:
        """The spec with scales in float32 where float16 would lose precision."""
        types = [safe_scale_type(matrix, spec) for matrix in matrices]
        return replace(spec, scale_type="float32") if "float32" in types else spec

    def code_dtype(self, spec: Spec) -> torch.dtype:
        """Symmetric codes of a byte each are stored around zero."""
        return torch.int8 if spec.symmetric and not spec.packed else torch.uint8

    def sides(self, rows: int, columns: int, spec: Spec) -> dict[str, Stored]:
        """Scales, and zero points where ranges have their own."""
        found = super().sides(rows, columns, spec)
        if not spec.symmetric:
            found["zero_point"] = found["scale"]._replace(dtype=torch.uint8)
        return found

    def quantize(self, matrix: Tensor, spec: Spec, settings: Settings) -> dict[str, Tensor]:
        """Codes by the rounding method of the options, on the grid of their weight search."""
        grid = grid_for(matrix, spec, settings.options)
        if settings.smallest_scale is not None:
            least = settings.smallest_scale.amax(0, keepdim=True) if len(grid.scale) == 1 else settings.smallest_scale
            least = least * (1 + torch.finfo(torch.float16).eps) if spec.scale_type == "float16" else least
            grid = replace(grid, scale=torch.maximum(grid.scale, least.to(grid.scale)))
        second = settings.second_moments() if settings.second_moments else None
        codes = ROUNDINGS.load(settings.options.rounding)(Problem(matrix, grid, second, settings.seed, settings.kernel))
        return grid_parts(grid, codes, spec)

    def dequantize(self, parts: Parts, spec: Spec) -> Tensor:
        """(code - zero_point) * scale."""
        codes, scale = parts["values"], wide_scale(parts, spec)
        if spec.symmetric:
            return (codes.to(scale.dtype) - uniform.middle_code(spec.bits)) * scale
        zero_point = uniform.expand_groups(parts["zero_point"], codes.shape[1], spec.group_size).float()
        return (codes.to(scale.dtype) - zero_point) * scale

    def lookup(self, parts: Parts, spec: Spec) -> Lookup | None:
        """Levels around zero are the table; ranges with zero points of their own have none."""
        if not spec.symmetric:
            return None
        levels = torch.arange(1 << spec.bits) - uniform.middle_code(spec.bits)
        return by_rows(levels, parts["values"], parts["scale"], spec.group_size)

    def pack(self, codes: Tensor, shape: torch.Size, spec: Spec) -> Tensor:
        """Codes in their bits, or a byte each."""
        if self.code_dtype(spec) == torch.int8:
            codes = codes.to(torch.int16) - uniform.middle_code(spec.bits)
        return super().pack(codes, shape, spec)

    def unpack(self, values: Tensor, shape: torch.Size, spec: Spec) -> Tensor:
        """Unsigned codes, (rows, columns)."""
        if self.code_dtype(spec) == torch.int8:
            values = (values.to(torch.int16) + uniform.middle_code(spec.bits)).to(torch.uint8)
        return super().unpack(values, shape, spec)


def grid_for(matrix: Tensor, spec: Spec, options: QuantizeOptions) -> uniform.Grid:
    """The levels that a weight matrix may take under a spec."""
    search = best_search(spec) if options.weight_search == "auto" else options.weight_search
    return uniform.make_grid(
        matrix,
        spec.bits,
        spec.granularity,
        spec.group_size,
        symmetric=spec.symmetric,
        search=search,
        scale_type=spec.scale_type,
    )


def best_search(spec: Spec) -> str:
    """How ranges of weights are found unless asked otherwise.

    Long rows have outliers, which are better clipped. Groups have few: tinylm's perplexity (benchmarks/results) with
    groups of 64 and GPTQ is at 4, 3, 2 bits 21.78, 21.82, 22.69 by minmax, 21.77, 21.84, 23.19 by mse, and 21.78,
    21.83, 22.41 by even.
    """
    if spec.bits >= 7:
        return "minmax"
    if spec.group_size is None or spec.group_size > _LARGEST_GROUP:
        return "mse"
    return "even" if spec.bits == 2 else "minmax"


def grid_parts(grid: uniform.Grid, codes: Tensor, spec: Spec) -> dict[str, Tensor]:
    """The parts of a weight matrix with these codes on a grid."""
    zero_point = {} if spec.symmetric else {"zero_point": grid.zero_point.to(torch.uint8)}
    return {"values": codes, "scale": grid.scale, **zero_point}


def safe_scale_type(matrix: Tensor, spec: Spec) -> str:
    """The spec's scale type, or float32 where float16 would lose a tiny scale's precision."""
    if spec.scale_type != "float16":
        return spec.scale_type
    low, high = uniform.weight_ranges(matrix, spec.granularity, spec.group_size)
    scale, _ = uniform.range_to_scale(low, high, spec.bits, symmetric=spec.symmetric)
    used = scale[scale > uniform.SMALLEST_SCALE]
    # 2**-14 is float16's smallest normal number; a least-error scale may be a fifth of the covering one
    return "float32" if used.numel() and float(used.min()) < 5 * 2.0**-14 else spec.scale_type


#: the row "int"
INTEGER = Integer()
