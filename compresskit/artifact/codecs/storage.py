"""How one tensor is laid out in the weights file: as it is, or through a codec that is exact and smaller."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import InputError, first_line
from ...core.registry import Registry, Row

#: name -> a Codec; encode(tensor) -> parts, decode(parts) -> the same tensor, bit for bit
CODECS: Registry[Codec] = Registry(
    "storage codec",
    "compresskit",
    {
        "bitmap": Row("artifact.codecs.storage:BITMAP", "one bit an element, then the non-zero values"),
        "huffman": Row("artifact.codecs.huffman:HUFFMAN", "Huffman-coded integers", "Han et al., 2016"),
    },
)

_MOST_DIMENSIONS = 64
_ALWAYS_ALLOWED = 1 << 26  # elements that coded tensors stand for together, however few bytes they take
_MOST_A_BYTE = 2048
_SEPARATOR = "::"  # cannot stand in a parameter name


class Codec(NamedTuple):
    """Two functions that undo each other."""

    encode: Callable[[Tensor], dict[str, Tensor]]
    decode: Callable[[dict[str, Tensor]], Tensor]


def pack_bits(bits: Tensor) -> Tensor:
    """Pack a flat bool tensor into uint8, first element in the lowest bit; (n,) -> (ceil(n / 8),)."""
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -bits.numel() % 8)).reshape(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """Undo `pack_bits`; -> (count,) bool."""
    return ((packed.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1).reshape(-1)[:count].bool()


def encode_bitmap(tensor: Tensor) -> dict[str, Tensor]:
    """Shape, one bit an element (non-zero or not), and the non-zero values in order."""
    flat = tensor.detach().cpu().reshape(-1)
    # a negative zero is kept as a value: the round trip is exact in bits
    kept = (flat != 0) | _negative(flat)
    return {"shape": torch.tensor(tensor.shape, dtype=torch.int64), "bitmap": pack_bits(kept), "values": flat[kept]}


def _negative(flat: Tensor) -> Tensor:
    """Where a sign bit is set, in either part of a complex number; (n,) bool."""
    if flat.is_complex():
        return torch.signbit(torch.view_as_real(flat)).any(-1)
    if not flat.is_floating_point():
        return torch.zeros_like(flat, dtype=torch.bool)
    return torch.signbit(flat.float() if flat.element_size() == 1 else flat)  # 8-bit floats have few operators


def decode_bitmap(parts: dict[str, Tensor]) -> Tensor:
    """Undo `encode_bitmap`."""
    shape = checked_shape(parts["shape"][: _MOST_DIMENSIONS + 1].tolist(), 8 * parts["bitmap"].numel())
    if parts["bitmap"].dtype != torch.uint8 or parts["bitmap"].numel() != -(-shape.numel() // 8):
        raise ValueError(f"a bitmap of {parts['bitmap'].numel()} {parts['bitmap'].dtype} for {shape.numel()} elements")
    flat = torch.zeros(shape.numel(), dtype=parts["values"].dtype)
    flat[unpack_bits(parts["bitmap"], shape.numel())] = parts["values"]
    return flat.reshape(shape)


def checked_shape(sizes: list[int], largest: int) -> torch.Size:
    """A shape that a file says, if it has no more elements than the file's bytes can stand for.

    Raises:
        ValueError: if a size is no size, or there are too many elements.
    """
    if len(sizes) > _MOST_DIMENSIONS or not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ValueError(f"{sizes[:8]} is no shape")
    if math.prod(sizes) > largest:
        raise ValueError(f"a shape of {math.prod(sizes):,} elements, of which the file can hold {largest:,}")
    return torch.Size(sizes)


BITMAP = Codec(encode_bitmap, decode_bitmap)


def encode_all(tensors: dict[str, Tensor], storage: dict[str, str]) -> dict[str, Tensor]:
    """Tensors as they go to the file; a coded one becomes several entries `name::codec::part`."""
    entries: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        codec = storage.get(name)
        if codec is None:
            entries[name] = tensor
            continue
        for part, value in CODECS.load(codec).encode(tensor).items():
            entries[_SEPARATOR.join((name, codec, part))] = value
    return entries


def decode_all(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `encode_all`.

    Raises:
        InputError: if an entry names an unknown codec or its parts do not fit together.
    """
    tensors: dict[str, Tensor] = {}
    coded: dict[tuple[str, str], dict[str, Tensor]] = {}
    for entry, value in entries.items():
        name, _, rest = entry.partition(_SEPARATOR)
        if not rest:
            tensors[name] = value
            continue
        codec, _, part = rest.partition(_SEPARATOR)
        coded.setdefault((name, codec), {})[part] = value
    decoded, allowed = 0, max(_ALWAYS_ALLOWED, _MOST_A_BYTE * sum(value.nbytes for value in entries.values()))
    for (name, codec), parts in coded.items():
        if name in tensors:
            raise InputError(f"tensor {name!r} is stored twice")
        try:
            tensors[name] = CODECS.load(codec).decode(parts)
        except Exception as error:  # bytes that no encoder wrote go wrong in many ways
            raise InputError(f"tensor {name!r} does not decode as {codec}: {first_line(error)[:200]}") from error
        decoded += tensors[name].numel()
        if decoded > allowed:
            raise InputError(f"coded tensors stand for more than {allowed:,} elements, far more than their bytes hold")
    return tensors
