"""Huffman coding of integer tensors, exact and vectorized both ways.

A tensor is coded densely, or, where one value fills most of it (a pruned layer's zero), as the gaps between the other
values and those values; whichever is smaller. All goes into one byte string:

    kind of number, mode, dimensions; then one coded stream (dense) or the run value and two streams (gaps, values)

A coded stream holds its symbols' code lengths (canonical codes need nothing else) and the bits in segments of SEGMENT
symbols, each starting on a byte, so that decoding works segment by segment.

Source: Han et al., "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained Quantization and Huffman
    Coding", ICLR 2016, sections 2 and 4.
"""

from __future__ import annotations

import heapq
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .storage import Codec, checked_shape

SEGMENT = 1 << 14
_LONGEST = 15  # bits of the longest code; a code length takes half a byte
_WIDEST = 1 << 16  # largest difference between symbols
_NUMBERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_DENSE, _RUNS = 0, 1
_ALWAYS_ALLOWED = 1 << 26  # elements of one tensor, however few bytes it takes
_MOST_A_BYTE = 2048  # elements: a run of 255 in each bit
_LONGEST_GAP = 255  # this gap stands for as many run values with nothing after them


@dataclass(frozen=True)
class Sizes:
    """Bytes of a coded tensor: codes of values, codes of their positions, and everything else."""

    values: int
    positions: int
    overhead: int


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Lengths of an optimal prefix code of at most 15 bits.

    Args:
        counts: how often each symbol occurs, (symbols,).
    Returns:
        (symbols,) uint8; 0 for a symbol that never occurs, 1 for a lone one.
    """
    counts = counts.astype(np.int64)
    while True:
        lengths = _unlimited_lengths(counts)
        if lengths.max(initial=0) <= _LONGEST:
            return lengths
        # flatter counts give shorter longest codes; rarely needed, and close to optimal
        counts = np.where(counts > 0, counts // 2 + 1, 0)


def _unlimited_lengths(counts: np.ndarray) -> np.ndarray:
    used = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), dtype=np.uint8)
    if len(used) == 1:
        lengths[used] = 1
        return lengths
    # (count, tie-breaker, symbols below): merging deepens every symbol below by one
    heap = [(int(counts[symbol]), int(symbol), [int(symbol)]) for symbol in used]
    heapq.heapify(heap)
    depths = dict.fromkeys(used.tolist(), 0)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        below = first[2] + second[2]
        for symbol in below:
            depths[symbol] += 1
        heapq.heappush(heap, (first[0] + second[0], min(first[1], second[1]), below))
    for symbol, depth in depths.items():
        lengths[symbol] = min(depth, 255)
    return lengths


def canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """The code of each symbol: shorter codes first, equal lengths in order of symbols; (symbols,) int64."""
    codes = np.zeros(len(lengths), dtype=np.int64)
    order = np.lexsort((np.arange(len(lengths)), lengths))
    code, previous = -1, 0
    for symbol in order:
        length = int(lengths[symbol])
        if length == 0:
            continue
        code = (code + 1) << (length - previous)
        previous = length
        codes[symbol] = code
    return codes


def encode(tensor: Tensor) -> dict[str, Tensor]:
    """Code an integer tensor of any shape; {"coded": (bytes,) uint8}.

    Raises:
        ValueError: if the tensor is not of integers, or they lie further apart than 65,535.
    """
    if tensor.dtype not in _NUMBERS:
        raise ValueError(f"Huffman coding takes integers, got {tensor.dtype}")
    symbols = tensor.detach().cpu().reshape(-1).numpy().astype(np.int64)
    if symbols.size and int(symbols.max()) - int(symbols.min()) >= _WIDEST:
        raise ValueError(f"Huffman coding takes integers at most {_WIDEST - 1} apart")
    dense, _ = _write_stream(symbols)
    runs = _encode_runs(symbols)
    mode, body = (_DENSE, dense) if runs is None or len(dense) <= len(runs) else (_RUNS, runs)
    header = struct.pack("<BBB", _NUMBERS.index(tensor.dtype), mode, tensor.dim())
    header += struct.pack(f"<{tensor.dim()}I", *tensor.shape)
    return {"coded": torch.frombuffer(bytearray(header + body), dtype=torch.uint8)}


def decode(parts: dict[str, Tensor]) -> Tensor:
    """Undo `encode`.

    Raises:
        ValueError: if the bytes are not what `encode` writes.
    """
    data = parts["coded"].cpu().numpy().tobytes()
    number, mode, shape, place = _read_header(data)
    # a run may go on after the last coded byte, so a shape can stand for more elements than there are bits
    count = checked_shape(list(shape), max(_ALWAYS_ALLOWED, _MOST_A_BYTE * len(data))).numel()
    if mode == _DENSE:
        symbols, place, _ = _read_stream(data, place)
    else:
        symbols, place = _decode_runs(data, place, count)
    if len(symbols) != count or place != len(data):
        raise ValueError(f"{len(symbols)} symbols for a tensor of {count}, {len(data) - place} bytes left over")
    return torch.from_numpy(symbols).to(_NUMBERS[number]).reshape(shape)


def sizes(parts: dict[str, Tensor]) -> Sizes:
    """What the bytes of a coded tensor are spent on."""
    data = parts["coded"].numpy().tobytes()
    _, mode, _, place = _read_header(data)
    positions = 0
    if mode == _RUNS:
        place += 4
        _, place, positions = _read_stream(data, place)
    _, place, values = _read_stream(data, place)
    return Sizes(values, positions, len(data) - values - positions)


HUFFMAN = Codec(encode, decode)


def _read_header(data: bytes) -> tuple[int, int, tuple[int, ...], int]:
    try:
        number, mode, dimensions = struct.unpack_from("<BBB", data)
        shape = struct.unpack_from(f"<{dimensions}I", data, 3)
    except struct.error as error:
        raise ValueError(f"truncated: {error}") from error
    if number >= len(_NUMBERS) or mode not in (_DENSE, _RUNS):
        raise ValueError(f"unknown number type {number} or mode {mode}")
    return number, mode, shape, 3 + 4 * dimensions


def _encode_runs(symbols: np.ndarray) -> bytes | None:
    """The most frequent value, the gaps between all others, and those; None where there is nothing to gain."""
    if not symbols.size:
        return None
    values, counts = np.unique(symbols, return_counts=True)
    run_value = int(values[counts.argmax()])
    places = np.flatnonzero(symbols != run_value)
    if 2 * len(places) > symbols.size:
        return None
    gaps = np.diff(places, prepend=-1) - 1
    # a long gap is written as fillers of the longest gap and a rest
    fillers, rests = gaps // _LONGEST_GAP, gaps % _LONGEST_GAP
    written = np.full(len(gaps) + int(fillers.sum()), _LONGEST_GAP, dtype=np.int64)
    written[np.cumsum(fillers + 1) - 1] = rests
    return struct.pack("<i", run_value) + _write_stream(written)[0] + _write_stream(symbols[places])[0]


def _decode_runs(data: bytes, place: int, count: int) -> tuple[np.ndarray, int]:
    try:
        (run_value,) = struct.unpack_from("<i", data, place)
    except struct.error as error:
        raise ValueError(f"truncated: {error}") from error
    written, place, _ = _read_stream(data, place + 4)
    values, place, _ = _read_stream(data, place)
    is_value = written < _LONGEST_GAP
    places = np.cumsum(written + is_value)[is_value] - 1
    if len(places) != len(values) or (len(places) and int(places[-1]) >= count):
        raise ValueError("gaps and values do not fit together")
    symbols = np.full(count, run_value, dtype=np.int64)
    symbols[places] = values
    return symbols, place


def _write_stream(symbols: np.ndarray) -> tuple[bytes, int]:
    """A coded stream and how many of its bytes are codes."""
    if not symbols.size:
        return struct.pack("<I", 0), 0
    lowest = int(symbols.min())
    shifted = symbols - lowest
    counts = np.bincount(shifted)
    lengths = code_lengths(counts)
    codes = canonical_codes(lengths)
    segments = [_write_bits(shifted[at : at + SEGMENT], codes, lengths) for at in range(0, len(shifted), SEGMENT)]
    header = struct.pack("<IiH", len(symbols), lowest, len(lengths) - 1) + _halves(lengths)
    ends = np.array([len(segment) for segment in segments], dtype="<u2").tobytes()
    payload = b"".join(segments)
    return header + ends + payload, len(payload)


def _write_bits(symbols: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> bytes:
    """Codes one after the other, highest bit first, filled up to a byte."""
    widths = lengths[symbols].astype(np.int64)
    starts = np.cumsum(widths) - widths
    owner = np.repeat(np.arange(len(symbols)), widths)
    below = widths[owner] - 1 - (np.arange(len(owner)) - starts[owner])
    bits = (codes[symbols][owner] >> below) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def _read_stream(data: bytes, place: int) -> tuple[np.ndarray, int, int]:
    """Symbols of a coded stream, where it ends, and how many of its bytes are codes."""
    try:
        (count,) = struct.unpack_from("<I", data, place)
        if count == 0:
            return np.zeros(0, dtype=np.int64), place + 4, 0
        _, lowest, last = struct.unpack_from("<IiH", data, place)
    except struct.error as error:
        raise ValueError(f"truncated: {error}") from error
    place += 10
    if count > 8 * (len(data) - place):
        raise ValueError(f"truncated: {count:,} symbols in {len(data) - place:,} bytes")
    table_bytes = (last + 2) // 2
    lengths = _from_halves(data[place : place + table_bytes], last + 1)
    place += table_bytes
    segment_count = -(-count // SEGMENT)
    ends = np.frombuffer(data, dtype="<u2", count=segment_count, offset=place).astype(np.int64)
    place += 2 * segment_count
    if place + int(ends.sum()) > len(data):
        raise ValueError("truncated: codes are missing")
    lookup = _lookup_table(lengths)
    symbols = np.empty(count, dtype=np.int64)
    start = place
    for number, size in enumerate(ends.tolist()):
        at = number * SEGMENT
        chunk = np.frombuffer(data, dtype=np.uint8, count=size, offset=place)
        symbols[at : at + SEGMENT] = _read_bits(chunk, min(SEGMENT, count - at), *lookup)
        place += size
    return symbols + lowest, place, place - start


def _lookup_table(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """For every window of the longest code's bits: the symbol its first code stands for, and that code's length."""
    longest = int(lengths.max(initial=0))
    if longest == 0:
        raise ValueError("no symbol has a code")
    codes = canonical_codes(lengths)
    symbol_of = np.zeros(1 << longest, dtype=np.int64)
    # a window that begins no code has length 0, and is caught when it is reached
    length_of = np.zeros(1 << longest, dtype=np.int64)
    for symbol in np.flatnonzero(lengths):
        length = int(lengths[symbol])
        first = int(codes[symbol]) << (longest - length)
        if first + (1 << (longest - length)) > 1 << longest:
            raise ValueError("code lengths that make no prefix code")
        symbol_of[first : first + (1 << (longest - length))] = symbol
        length_of[first : first + (1 << (longest - length))] = length
    return symbol_of, length_of, longest


def _read_bits(chunk: np.ndarray, count: int, symbol_of: np.ndarray, length_of: np.ndarray, longest: int) -> np.ndarray:
    """Symbols of one segment.

    The code at every bit position is looked up at once; then the positions that codes really start at are found by
    doubling: knowing the first k of them and where k codes lead from anywhere gives the next k.
    """
    padded = np.concatenate([chunk, np.zeros(2, dtype=np.uint8)]).astype(np.int64)
    words = (padded[:-2] << 16) | (padded[1:-1] << 8) | padded[2:]
    # (bytes, 8): the window that starts at each bit
    windows = (words[:, None] >> (24 - longest - np.arange(8))) & ((1 << longest) - 1)
    windows = windows.reshape(-1)
    end = len(windows)
    leap = np.append(np.minimum(np.arange(end) + length_of[windows], end), end)
    starts = np.zeros(1, dtype=np.int64)
    while len(starts) < count:
        starts = np.concatenate([starts, leap[starts]])
        leap = leap[leap]
    starts = starts[:count]
    if int(starts.max()) >= end or not length_of[windows[starts]].all():
        raise ValueError("the bits end before the symbols do, or hold no code")
    return symbol_of[windows[starts]]


def _halves(lengths: np.ndarray) -> bytes:
    """Two code lengths a byte."""
    padded = np.append(lengths, np.zeros(len(lengths) % 2, dtype=np.uint8)).reshape(-1, 2)
    return (padded[:, 0] | (padded[:, 1] << 4)).astype(np.uint8).tobytes()


def _from_halves(data: bytes, count: int) -> np.ndarray:
    pairs = np.frombuffer(data, dtype=np.uint8)
    lengths = np.stack([pairs & 15, pairs >> 4], 1).reshape(-1)[:count]
    if len(lengths) != count:
        raise ValueError("truncated: code lengths are missing")
    return lengths
