"""Weights as codes into a table of levels, with a scale a block: how files of other runtimes can hold a format."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...layers.quantized_layer import Quantized, from_matrix


@dataclass(frozen=True)
class Lookup:
    """weight = levels[code] * scale of the code's block, in float32.

    Attributes:
        levels: (n,), n at most 256.
        codes: (rows, columns) uint8.
        scales: one for each block, in the blocks' order; None for none.
        blocks: "rows": runs of `block` columns of a row, the last of a row cut short; "flat": runs of the flat matrix.
        block: weights a block.
        shape: of the parameter.
        axis: the parameter's dimension that the rows count.
    """

    levels: Tensor
    codes: Tensor
    scales: Tensor | None = None
    blocks: Literal["rows", "flat"] = "rows"
    block: int = 1
    shape: torch.Size = torch.Size()
    axis: int = 0

    def of(self, shape: torch.Size, axis: int) -> Lookup:
        """The same of a parameter of that shape."""
        return replace(self, shape=shape, axis=axis)

    def weights(self) -> Tensor:
        """The parameter in float32."""
        values, scales = self.levels.float()[padded_codes(self).long()], block_scales(self)
        if scales is not None:
            values = values.reshape(scales.numel(), -1) * scales.float().reshape(-1, 1)
        rows, columns = self.codes.shape
        if self.blocks == "flat":
            matrix = values.reshape(-1)[: rows * columns].reshape(rows, columns)
        else:
            matrix = values.reshape(rows, -1)[:, :columns]
        return from_matrix(matrix, self.shape, self.axis)

    def as_integers(self) -> Tensor | None:
        """What to add to a code, int16, where levels are consecutive integers in eight bits; else None."""
        levels = self.levels.double()
        first = float(levels[0])
        counts = torch.arange(levels.numel(), dtype=torch.float64)
        if first != round(first) or not torch.equal(levels, counts + first):
            return None
        if first < -128 or float(levels[-1]) > 127:
            return None
        return torch.tensor(int(first), dtype=torch.int16)


def lookup_of(layer: Quantized, name: str) -> Lookup | None:
    """A parameter of a layer as codes into a table; None where the format has no such view that gives its very values.

    Args:
        layer: a quantized layer.
        name: one of its quantized parameters.
    """
    find = getattr(layer.number_format, "lookup", None)  # a format of the user's own may have none
    parts = layer._parts(name) | {"values": layer.codes(name)}
    found = find(parts, layer.spec) if find is not None else None
    if found is None or found.codes.dtype != torch.uint8 or found.levels.numel() > 1 << 8:
        return None
    found = found.of(layer.parameter_shapes[name], layer.spec.axis)
    return found if torch.equal(found.weights(), layer.dequantized(name).float()) else None


def by_rows(levels: Tensor, codes: Tensor, scale: Tensor, group_size: int | None) -> Lookup:
    """A lookup of a (rows, columns) matrix whose scales are (1, 1), (rows, 1) or (rows, groups)."""
    rows, columns = codes.shape
    grouped = bool(group_size) and scale.shape[1] > 1
    scales = scale.expand(rows, scale.shape[1])
    return Lookup(levels, codes.to(torch.uint8), scales, "rows", int(group_size or 1) if grouped else max(columns, 1))


def padded_codes(lookup: Lookup) -> Tensor:
    """Codes filled up to whole blocks: (rows, columns), or (n,) where blocks run through the flat matrix."""
    if lookup.scales is None:
        return lookup.codes
    if lookup.blocks == "flat":
        flat = lookup.codes.reshape(-1)
        return pad(flat, (0, -flat.numel() % lookup.block))
    return pad(lookup.codes, (0, -lookup.codes.shape[1] % lookup.block))


def block_scales(lookup: Lookup) -> Tensor | None:
    """One scale for each block of the padded codes."""
    return None if lookup.scales is None else lookup.scales.reshape(-1)
