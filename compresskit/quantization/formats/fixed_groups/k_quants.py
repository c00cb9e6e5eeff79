"""K-quants of GGUF (Q2_K to Q6_K): superblocks of 256 columns, whose blocks have scales and offsets of few bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...layers.layer_spec import Spec
from ...options import QuantizeOptions
from ...rounding.nearest import Problem
from ...tables import ROUNDINGS
from .. import uniform
from ..base import BaseFormat
from ..number_format import Parts, Settings, Stored
from ..packing import pack, unpack

SUPERBLOCK = 256  # columns that share a scale and an offset in float16
#: candidates for a block's step: that which covers its range with so many levels less or more than there are
_FEWER_LEVELS, _LEVELS_APART, _CANDIDATES = -1.0, 0.1, 21


class KQuant(BaseFormat):
    """value = scale * block_scale * code - offset * block_offset; or scale * block_scale * (code - 2**(bits - 1)).

    Scale and offset are float16, one a superblock of 256 columns; block scales and offsets are whole numbers of
    `scale_bits` bits, one a block of `group_size` columns. A block's step and offset are those of least squared error
    among 21 steps, each with its least-squares fit. Where the layer's inputs are known, columns count by their mean
    square, as with llama.cpp's importance matrix. Codes come from the rounding method of the options.

    Args:
        bits: of a code.
        block: columns that share a block scale.
        scale_bits: of a block scale, and of a block offset.
        offsets: whether blocks have offsets; else codes count from the middle, and block scales have a sign.
    Source: Kawrakow, "k-quants", llama.cpp, pull request 1684, 2023.
    """

    granularity = "group"
    options = frozenset({"rounding"})

    def __init__(self, bits: int, block: int, scale_bits: int, *, offsets: bool):
        self.bits = bits
        self.group_size: int = block
        self.scale_bits = scale_bits
        self.offsets = offsets

    def geometry(self, bits: int, options: QuantizeOptions) -> dict[str, Any]:
        """Fields of a layer's Spec; scales are float16 however small they are, as files have them."""
        return super().geometry(bits, options) | {"scale_type": "float16", "packed": options.coding == "packed"}

    def sides(self, rows: int, columns: int, spec: Spec) -> dict[str, Stored]:
        """Scales of superblocks, (rows, superblocks), of blocks, (rows, superblocks, bytes), and offsets alike."""
        count = -(-columns // SUPERBLOCK)
        whole = Stored((rows, count), torch.float16, "scales")
        bits = SUPERBLOCK // self.group_size * self.scale_bits
        blocks = Stored((rows, count, bits // 8), torch.uint8, "scales")
        found = {"scale": whole, "block_scale": blocks}
        return found | ({"offset": whole, "block_offset": blocks} if self.offsets else {})

    def quantize(self, matrix: Tensor, spec: Spec, settings: Settings) -> dict[str, Tensor]:
        """Steps and offsets of each block, these in few bits, and then the codes."""
        second = settings.second_moments() if settings.second_moments else None
        groups = uniform.group_columns(matrix, self.group_size)
        weights = uniform.group_columns(_column_weights(matrix, second), self.group_size)
        steps, offsets = self._with_offsets(groups, weights) if self.offsets else self._around_zero(groups, weights)
        parts = self._in_few_bits(steps, "scale", signed=not self.offsets)
        if self.offsets:
            parts |= self._in_few_bits(offsets, "offset", signed=False)
        steps, offsets = self.steps_and_offsets(parts)
        middle = 0 if self.offsets else uniform.middle_code(self.bits)
        # a grid's zero point is a whole number, so offsets are added to the weights instead; errors stay what they are
        steps = torch.where(steps == 0, uniform.SMALLEST_SCALE, steps)
        zero_points = torch.full_like(steps, middle, dtype=torch.int32)
        grid = uniform.Grid(steps, zero_points, self.bits, group_size=self.group_size)
        problem = Problem(matrix + self.wide(offsets, matrix.shape[1]), grid, second, settings.seed, settings.kernel)
        return {"values": ROUNDINGS.load(settings.options.rounding)(problem)} | parts

    def dequantize(self, parts: Parts, spec: Spec) -> Tensor:
        """Step * code - offset, in float32."""
        codes = parts["values"]
        steps, offsets = (self.wide(part, codes.shape[1]) for part in self.steps_and_offsets(parts))
        middle = 0 if self.offsets else uniform.middle_code(self.bits)
        return steps * (codes.to(steps.dtype) - middle) - offsets

    def steps_and_offsets(self, parts: Parts) -> tuple[Tensor, Tensor]:
        """What codes of each block are multiplied by, and what is taken off then.

        Returns:
            two tensors of (rows, blocks), blocks of whole superblocks.
        """
        steps = self._product(parts, "scale", signed=not self.offsets)
        return steps, self._product(parts, "offset", signed=False) if self.offsets else torch.zeros_like(steps)

    def whole_numbers(self, parts: Parts, name: str) -> Tensor:
        """Block scales or offsets as they are stored, (rows, superblocks, blocks of each) uint8."""
        stored = parts[f"block_{name}"]
        blocks = SUPERBLOCK // self.group_size
        count = stored.numel() // stored.shape[-1] * blocks
        return unpack(stored.reshape(-1), self.scale_bits, count).reshape(*stored.shape[:-1], blocks)

    def wide(self, values: Tensor, columns: int) -> Tensor:
        """(rows, blocks) -> (rows, columns)."""
        return values.repeat_interleave(self.group_size, 1)[:, :columns]

    def _product(self, parts: Parts, name: str, *, signed: bool) -> Tensor:
        whole = parts[name].float() if parts[name].dtype == torch.float16 else parts[name]
        numbers = self.whole_numbers(parts, name).to(whole.dtype)
        numbers = numbers - uniform.middle_code(self.scale_bits) if signed else numbers
        return (whole.unsqueeze(-1) * numbers).flatten(1)

    def _in_few_bits(self, values: Tensor, name: str, *, signed: bool) -> dict[str, Tensor]:
        """(rows, blocks) as whole numbers times a float16 for each superblock."""
        blocks = SUPERBLOCK // self.group_size
        padded = torch.nn.functional.pad(values, (0, -values.shape[1] % blocks)).unflatten(1, (-1, blocks))
        middle = uniform.middle_code(self.scale_bits) if signed else 0
        largest = uniform.highest_code(self.scale_bits) - middle
        whole = (padded.abs().amax(2) / largest).to(torch.float16)
        numbers = (padded / whole.float().clamp(min=uniform.SMALLEST_SCALE).unsqueeze(2)).round()
        stored = pack(numbers.clamp(-largest if signed else 0, largest) + middle, self.scale_bits)
        return {name: whole, f"block_{name}": stored.reshape(*whole.shape, -1)}

    def _with_offsets(self, groups: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Steps and offsets, (rows, blocks), of (rows, blocks, columns of a block); zero is in every range."""
        top = uniform.highest_code(self.bits)
        low, high = groups.amin(2, keepdim=True).clamp(max=0), groups.amax(2, keepdim=True).clamp(min=0)
        span = (high - low).clamp(min=uniform.SMALLEST_SCALE)
        best: tuple[Tensor, ...] = (span / top, -low, torch.full_like(low, torch.inf))
        total, first = weights.sum(2, keepdim=True), (weights * groups).sum(2, keepdim=True)
        for candidate in range(-1, _CANDIDATES):
            levels = top if candidate < 0 else top + _FEWER_LEVELS + _LEVELS_APART * candidate
            codes = ((groups - low) * (levels / span)).round().clamp(0, top)
            coded, product = (weights * codes).sum(2, keepdim=True), (weights * codes * groups).sum(2, keepdim=True)
            square = (weights * codes.square()).sum(2, keepdim=True)
            spread = total * square - coded.square()
            step = torch.where(spread > 0, (total * product - first * coded) / spread, 0)
            offset = torch.where(spread > 0, (step * coded - first) / total, -low)
            # offsets below zero cannot be stored: then zero, and the step that fits it
            step = torch.where(offset < 0, product / square.clamp(min=uniform.SMALLEST_SCALE), step)
            offset = offset.clamp(min=0)
            if candidate < 0:  # the plain range
                step, offset = best[:2]
            error = (weights * (step * codes - offset - groups).square()).sum(2, keepdim=True)
            better = (error < best[2]) & (step > 0)
            best = tuple(torch.where(better, new, old) for new, old in zip((step, offset, error), best, strict=True))
        return best[0].squeeze(2), best[1].squeeze(2)

    def _around_zero(self, groups: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Steps, (rows, blocks), whose sign lets the largest weight have the end with one level more; no offsets."""
        middle = uniform.middle_code(self.bits)
        extreme = groups.gather(2, groups.abs().argmax(2, keepdim=True))
        extreme = torch.where(extreme == 0, uniform.SMALLEST_SCALE, extreme)
        best: tuple[Tensor, ...] = (-extreme / middle, torch.full_like(extreme, torch.inf))
        for candidate in range(_CANDIDATES):
            levels = middle + _FEWER_LEVELS + _LEVELS_APART * candidate
            codes = (groups * (-levels / extreme)).round().clamp(-middle, middle - 1)
            square = (weights * codes.square()).sum(2, keepdim=True).clamp(min=uniform.SMALLEST_SCALE)
            step = (weights * codes * groups).sum(2, keepdim=True) / square
            error = (weights * (step * codes - groups).square()).sum(2, keepdim=True)
            better = error < best[1]
            best = tuple(torch.where(better, new, old) for new, old in zip((step, error), best, strict=True))
        return best[0].squeeze(2), torch.zeros_like(best[0].squeeze(2))


def _column_weights(matrix: Tensor, second_moments: Tensor | None) -> Tensor:
    """How much the error of each weight counts: the mean square of what it is multiplied by, (rows, columns)."""
    if second_moments is None:
        return torch.ones_like(matrix)
    squares = second_moments.diagonal(dim1=1, dim2=2).to(matrix)  # (weight groups, columns)
    squares = squares + 1e-3 * squares.mean(1, keepdim=True) + uniform.SMALLEST_SCALE
    return squares.repeat_interleave(len(matrix) // len(squares), 0)


#: the rows "q2-k" to "q6-k"
Q2_K = KQuant(2, 16, 4, offsets=True)
Q3_K = KQuant(3, 16, 6, offsets=False)
Q4_K = KQuant(4, 32, 6, offsets=True)
Q5_K = KQuant(5, 32, 6, offsets=True)
Q6_K = KQuant(6, 16, 8, offsets=False)
