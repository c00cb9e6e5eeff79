"""Quantized weights as the blocks of GGUF files: 32 columns a block of the simple kinds, 256 of the K-quants."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ....quantization.formats.fixed_groups.k_quants import SUPERBLOCK, KQuant
from ....quantization.formats.number_format import Parts
from ....quantization.formats.uniform import expand_groups, middle_code
from ....quantization.layers.quantized_layer import Quantized, matrix_shape

BLOCK = 32  # columns that share a scale


def blocks_of(layer: Quantized) -> tuple[str, np.ndarray] | None:
    """A layer's weight in GGUF's blocks.

    Args:
        layer: a quantized layer.
    Returns:
        the kind of block and the (rows, bytes) of them; None where they do not fit.
    """
    spec = layer.spec
    if spec.parameters != ("weight",) or spec.input_multiplier or spec.axis != 0:
        return None
    shape = layer.parameter_shapes["weight"]
    if matrix_shape(shape, spec.axis)[1] % BLOCK:
        return None
    values = layer.number_format.unpack(layer.get_buffer("weight_values"), shape, spec)
    if isinstance(layer.number_format, KQuant):
        names = layer.number_format.stored(shape, spec)
        parts = {name: layer.get_buffer(f"weight_{name}") for name in names} | {"values": values}
        return _of_k_quants(layer.number_format, parts)
    return _of_integers(layer, values) if spec.format == "int" else None


def _of_integers(layer: Quantized, codes: Tensor) -> tuple[str, np.ndarray] | None:
    """Integers of up to 4 bits, of 5 bits, and symmetric ones of up to 8, in groups of multiples of 32 columns."""
    spec, (rows, columns) = layer.spec, codes.shape
    if spec.granularity == "group" and (spec.group_size or 0) % BLOCK:
        return None

    def a_block(name: str) -> Tensor:
        wide = expand_groups(layer.get_buffer(f"weight_{name}").float(), columns, spec.group_size)
        return wide.expand(rows, columns)[:, ::BLOCK]

    levels, scale = codes.to(torch.int16).reshape(rows, columns // BLOCK, BLOCK), a_block("scale")
    if spec.symmetric and spec.bits > 5:
        return "Q8_0", _joined(_halves(scale), (levels - middle_code(spec.bits)).to(torch.int8).view(torch.uint8))
    bits = 4 if spec.bits <= 4 else 5
    if spec.symmetric:
        return f"Q{bits}_0", _joined(_halves(scale), *_codes(levels - middle_code(spec.bits) + middle_code(bits), bits))
    if spec.bits > 5:
        return None
    return f"Q{bits}_1", _joined(_halves(scale), _halves(-scale * a_block("zero_point")), *_codes(levels, bits))


def _of_k_quants(form: KQuant, parts: Parts) -> tuple[str, np.ndarray] | None:
    """Superblocks; where rows are no multiples of 256 columns, blocks of 32 with float16 products of both scales."""
    codes = parts["values"].to(torch.uint8)
    rows, columns = codes.shape
    if columns % SUPERBLOCK:
        if form.group_size != BLOCK:
            return None
        scale, offset = (part[:, : columns // BLOCK] for part in form.steps_and_offsets(parts))
        coded = _codes(codes.reshape(rows, -1, BLOCK), form.bits)
        return f"Q{form.bits}_1", _joined(_halves(scale), _halves(-offset), *coded)
    # (rows, superblocks, blocks of 32 columns, 32)
    codes = codes.reshape(rows, -1, SUPERBLOCK // BLOCK, BLOCK)
    scale, blocks = _halves(parts["scale"]), form.whole_numbers(parts, "scale")
    if form.bits == 2:
        offsets = form.whole_numbers(parts, "offset")
        return "Q2_K", _joined(blocks | offsets << 4, _quarters(codes), scale, _halves(parts["offset"]))
    if form.bits == 3:
        return "Q3_K", _joined(_bit_planes(codes >> 2), _quarters(codes & 3), _six_bits(blocks), scale)
    if form.bits == 6:
        signed = (blocks.to(torch.int16) - middle_code(form.scale_bits)).to(torch.int8).view(torch.uint8)
        low = codes.unflatten(2, (2, 2, 2))  # (..., halves of 128, low or high four bits, 32 after 32, 32)
        nibbles = (low[..., 0, :, :] & 15) | (low[..., 1, :, :] & 15) << 4
        return "Q6_K", _joined(nibbles.flatten(2), _quarters(codes >> 4), signed, scale)
    both = _scales_and_offsets(blocks, form.whole_numbers(parts, "offset"))
    pairs = codes.unflatten(2, (-1, 2)) & 15
    high = [_bit_planes(codes >> 4)] if form.bits == 5 else []
    nibbles = (pairs[..., 0, :] | pairs[..., 1, :] << 4).flatten(2)
    return f"Q{form.bits}_K", _joined(scale, _halves(parts["offset"]), both, *high, nibbles)


def _codes(levels: Tensor, bits: int) -> list[Tensor]:
    """(rows, blocks, 32) codes as bytes: of 5 bits the highest first, a bit each; then the others.

    The first 16 codes of a block have the lower four bits of its 16 bytes, the others the higher.
    """
    levels = levels.to(torch.uint8)
    nibbles = (levels[..., : BLOCK // 2] & 15) | (levels[..., BLOCK // 2 :] & 15) << 4
    if bits == 4:
        return [nibbles]
    return [_bit_planes((levels >> 4).unflatten(2, (4, 8)).transpose(2, 3)), nibbles]


def _bit_planes(bits: Tensor) -> Tensor:
    """(..., up to 8, n) bits -> (..., n) bytes; plane i is bit i."""
    places = torch.arange(bits.shape[-2], dtype=torch.uint8).unsqueeze(1)
    return (bits << places).sum(-2, dtype=torch.uint8)


def _quarters(codes: Tensor) -> Tensor:
    """(..., 8, 32) codes of 2 bits -> (..., 64) bytes, each of four codes that are 32 columns apart."""
    places = torch.arange(0, 8, 2, dtype=torch.uint8).unsqueeze(1)
    return (codes.unflatten(-2, (2, 4)) << places).sum(-2, dtype=torch.uint8).flatten(-2)


def _six_bits(numbers: Tensor) -> Tensor:
    """(..., 16) numbers of 6 bits -> (..., 12) bytes: lower four bits in 8 bytes, higher two bits in 4."""
    low, high = numbers & 15, (numbers >> 4).unflatten(-1, (4, 4))
    places = torch.arange(0, 8, 2, dtype=torch.uint8).unsqueeze(1)
    return torch.cat([low[..., :8] | low[..., 8:] << 4, (high << places).sum(-2, dtype=torch.uint8)], -1)


def _scales_and_offsets(scales: Tensor, offsets: Tensor) -> Tensor:
    """(..., 8) twice, of 6 bits -> (..., 12) bytes: the first four of each whole, of the others 4 and 2 bits apart."""
    first = [part[..., :4] | part[..., 4:] >> 4 << 6 for part in (scales, offsets)]
    return torch.cat([*first, (scales[..., 4:] & 15) | (offsets[..., 4:] & 15) << 4], -1)


def _halves(values: Tensor) -> Tensor:
    """float16 numbers as their bytes, two each."""
    return values.to(torch.float16).contiguous().unsqueeze(-1).view(torch.uint8)


def _joined(*parts: Tensor) -> np.ndarray:
    """(rows, blocks, bytes) each -> (rows, all bytes of all blocks)."""
    return torch.cat(parts, -1).flatten(1).contiguous().numpy()
