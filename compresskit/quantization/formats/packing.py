"""Unsigned integers of 1 to 8 bits in the bits they need, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from compresskit.core.errors import ShapeError

#: values packed together, a multiple of eight; each takes some twenty bytes meanwhile
_LARGEST_PART = 1 << 20


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take."""
    return -(-count * bits // 8)


def pack(values: Tensor, bits: int) -> Tensor:
    """Pack unsigned integers into a little-endian bit stream.

    Value i takes the stream's bits [i * bits, (i + 1) * bits), lowest bit first; eight values fill `bits` bytes.

    Args:
        values: integers in [0, 2**bits), any shape; read in row-major order.
        bits: 1 to 8.
    Returns:
        (ceil(count * bits / 8),) uint8.
    Raises:
        ShapeError: if bits is out of range or a value does not fit.
    """
    _check(bits)
    flat = values.reshape(-1)
    if flat.numel() and (int(flat.min()) < 0 or int(flat.max()) >= 1 << bits):
        raise ShapeError(f"values of [{int(flat.min())}, {int(flat.max())}] do not fit into {bits} bits")
    return torch.cat([_packed(part, bits) for part in flat.split(_LARGEST_PART)] or [_packed(flat, bits)])


def _packed(flat: Tensor, bits: int) -> Tensor:
    count = flat.numel()
    # (count / 8, 8): eight values at a time fill whole bytes
    groups = torch.nn.functional.pad(flat.to(torch.int64), (0, -count % 8)).reshape(-1, 8)
    words = torch.zeros(len(groups), dtype=torch.int64, device=flat.device)
    packed = torch.empty(len(groups), bits, dtype=torch.uint8, device=flat.device)
    if bits == 8:
        packed.copy_(groups)
    else:
        for place in range(8):
            words |= groups[:, place] << (bits * place)
        for byte in range(bits):
            packed[:, byte] = ((words >> (8 * byte)) & 0xFF).to(torch.uint8)
    return packed.reshape(-1)[: packed_bytes(count, bits)].contiguous()


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Undo `pack`.

    Args:
        packed: (ceil(count * bits / 8),) uint8.
        bits: 1 to 8.
        count: how many values there are.
    Returns:
        (count,) uint8.
    Raises:
        ShapeError: if the packed tensor has another length than `count` values need.
    """
    _check(bits)
    if packed.numel() != packed_bytes(count, bits):
        raise ShapeError(f"{count} values of {bits} bits take {packed_bytes(count, bits)} bytes, got {packed.numel()}")
    if bits == 8:
        return packed
    if bits in (1, 2, 4):
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        return ((packed.unsqueeze(1) >> shifts) & ((1 << bits) - 1)).reshape(-1)[:count]
    groups = torch.nn.functional.pad(packed, (0, -packed.numel() % bits)).reshape(-1, bits).to(torch.int64)
    byte_places = torch.arange(0, 8 * bits, 8, device=packed.device)
    words = (groups << byte_places).sum(1, keepdim=True)
    shifts = torch.arange(0, 8 * bits, bits, device=packed.device)
    return ((words >> shifts) & ((1 << bits) - 1)).to(torch.uint8).reshape(-1)[:count]


def _check(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise ShapeError(f"packing takes 1 to 8 bits, got {bits}")
