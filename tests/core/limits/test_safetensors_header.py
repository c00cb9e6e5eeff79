"""Headers of weights files that lie: refused on one line, in a moment, in little memory."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compresskit.artifact.codecs.storage import decode_all
from compresskit.core.errors import InputError
from compresskit.core.limits.safetensors_header import check_header
from compresskit.model.checkpoints.weights import read_safetensors


def written(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


EIGHT = b"\0" * 8
LIES = {
    "a length of 2**60": (b"{}", b"", 1 << 60, "a header of"),
    "a length of 0": (b"{}", b"", 0, "a header of 0 bytes"),
    "no JSON": (b"{{{{", b"", None, "its header is wrong"),
    "a list": (b"[]", b"", None, "it is no mapping"),
    "100,000 brackets": (b"[" * 100_000, b"", None, "header"),
    "no text": (b'{"\xff": 1}', b"", None, "its header is wrong"),
    "a name twice": (b'{"a": 1, "a": 2}', b"", None, "stands twice"),
    "a tensor that is a number": ({"a": 1}, b"", None, "'a' lacks dtype"),
    "an unknown number type": ({"a": entry("F31")}, EIGHT, None, "unknown number type 'F31'"),
    "a wider number type": ({"a": entry("F64")}, EIGHT, None, "has 8 bytes for 16"),
    "an enormous shape": ({"a": entry(shape=(1 << 40, 1 << 40))}, EIGHT, None, "has 8 bytes for"),
    "a negative size": ({"a": entry(shape=(-2,))}, EIGHT, None, "no sizes"),
    "a size that is true": ({"a": entry(shape=(True, 2))}, EIGHT, None, "no sizes"),
    "offsets beyond the file": ({"a": entry(offsets=(8, 16))}, EIGHT, None, "begins at byte 8"),
    "tensors over each other": ({"a": entry(), "b": entry()}, EIGHT, None, "begins at byte 0"),
    "bytes of no tensor": ({"a": entry()}, EIGHT * 2, None, "take 8 bytes, the file has 16"),
    "a tensor cut off": ({"a": entry()}, b"\0" * 4, None, "take 8 bytes, the file has 4"),
}


@pytest.mark.parametrize(("header", "data", "length", "says"), LIES.values(), ids=LIES)
def test_lies(header, data, length, says, tmp_path):
    path = written(tmp_path / "w.safetensors", header, data, length)
    started = time.process_time()
    with pytest.raises(InputError, match="damaged or truncated") as error:
        read_safetensors(path)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert time.process_time() - started < 1


def test_what_the_library_writes_passes(tmp_path):
    types = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.int64, torch.uint8, torch.complex64)
    tensors = {str(dtype): torch.zeros(2, 3).to(dtype) for dtype in types} | {"empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "w.safetensors", {"format": "pt"})
    check_header(tmp_path / "w.safetensors", "w")
    assert set(read_safetensors(tmp_path / "w.safetensors")) == set(tensors)


def coded(*values: int) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(bytes(values), dtype=np.uint8).copy())


CODED = {
    "a bitmap of another length": (
        "bitmap",
        {"shape": torch.tensor([100]), "bitmap": coded(1), "values": torch.ones(1)},
        "of which the file can hold 8",
    ),
    "an enormous shape": (
        "bitmap",
        {"shape": torch.tensor([1 << 40, 1 << 20]), "bitmap": coded(1), "values": torch.ones(1)},
        "can hold",
    ),
    "a negative shape": (
        "bitmap", {"shape": torch.tensor([-1]), "bitmap": coded(), "values": torch.ones(0)}, "no shape",
    ),
    "a shape of floats": (
        "bitmap", {"shape": torch.tensor([1.5]), "bitmap": coded(1), "values": torch.ones(1)}, "no shape",
    ),
    "fewer values than bits": (
        "bitmap", {"shape": torch.tensor([8]), "bitmap": coded(255), "values": torch.ones(1, 2)}, "does not decode",
    ),
    "no parts": ("bitmap", {"shape": torch.tensor([8])}, "does not decode"),
    "an unknown codec": ("zip", {"x": coded(1)}, "unknown storage codec"),
    "nothing": ("huffman", {"coded": coded()}, "truncated"),
    "255 dimensions": ("huffman", {"coded": coded(0, 0, 255, *[255] * 1020)}, "no shape"),
    "an enormous run": ("huffman", {"coded": coded(1, 1, 2, *[255] * 8, *[0] * 12)}, "of which the file can hold"),
    "more symbols than bits": (
        "huffman", {"coded": coded(1, 0, 1, 255, 255, 255, 0, *[255] * 4, *[0] * 8)}, "symbols in",
    ),
    "codes that are none": ("huffman", {"coded": coded(1, 0, 1, 4, 0, 0, 0, 4, *[0] * 20)}, "does not decode"),
}  # fmt: skip


@pytest.mark.parametrize(("codec", "parts", "says"), CODED.values(), ids=CODED)
def test_coded_tensors_that_lie(codec, parts, says):
    started = time.process_time()
    with pytest.raises(InputError, match=says):
        decode_all({f"w::{codec}::{part}": value for part, value in parts.items()})
    assert time.process_time() - started < 1


def test_many_small_codes_of_large_tensors_are_refused(monkeypatch):
    from compresskit.artifact.codecs import huffman, storage

    monkeypatch.setattr(storage, "_ALWAYS_ALLOWED", 1 << 20)
    one = huffman.encode(torch.zeros(1 << 18, dtype=torch.int8))["coded"]
    assert decode_all({"w::huffman::coded": one})["w"].numel() == 1 << 18
    with pytest.raises(InputError, match="stand for more than"):
        decode_all({f"w{number}::huffman::coded": one for number in range(10)})
