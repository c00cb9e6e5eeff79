"""Arrays of every kind: converted exactly, or refused with the reason."""

from __future__ import annotations

import io
import time
import zipfile

import numpy as np
import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.arrays import read_npz, to_tensor
from compresskit.data.dataset import open_data


@pytest.mark.parametrize("kind", [">f4", "<f8", ">i2", ">u2", "<u4", "?", "<f2", ">c8", "i1"])
def test_numbers_keep_their_values(kind):
    array = np.array([[0, 1], [2, 3]]).astype(kind)
    tensor = to_tensor(array, "x")
    assert torch.equal(tensor.to(torch.complex128), torch.tensor(array.astype("c16")))


def test_views_of_every_order():
    array = np.arange(24.0).reshape(2, 3, 4)
    for view in (array[::-1], array.T, np.asfortranarray(array), array[:, ::2], np.broadcast_to(array, (5, 2, 3, 4))):
        assert np.array_equal(to_tensor(view, "x").numpy(), view)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array(["a", "b"]), "of type <U1; give numbers"),
        (np.array([b"a"]), "give numbers"),
        (np.array([{}], dtype=object), "of type object"),
        (np.array(["2024-01-01"], dtype="M8[D]"), "of type datetime64"),
        (np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]), "give numbers"),
        (np.float32(3), "a single number"),
        ([[1], [1, 2]], "not made of numbers"),
        ("text", "give numbers"),
        (None, "of type object"),
        (np.array([2**64 - 1], dtype=np.uint64), "beyond 2..63"),
        (torch.zeros(2, device="meta"), "meta device"),
    ],
)
def test_what_is_no_array_of_numbers(values, says):
    with pytest.raises(InputError, match=says):
        to_tensor(values, "x")


def data(tmp_path, x, y):
    np.savez(tmp_path / "d.npz", x=x, y=y)
    return open_data(f"npz:{tmp_path}/d.npz")


X = np.zeros((40, 1, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.full(40, np.nan), "targets hold NaN"),
        (np.full(40, np.inf), "targets hold NaN or infinite"),
        (np.arange(40) - 1, "a class -1; classes count from 0"),
        (np.zeros(40, complex), "targets are complex"),
        (np.zeros(39), "40 inputs but 39 targets"),
        (np.zeros((), int), "single number"),
    ],
)
def test_targets_that_no_loss_takes(y, says, tmp_path):
    with pytest.raises(InputError, match=says):
        data(tmp_path, X, y)


def test_truth_values_are_classes(tmp_path):
    found = data(tmp_path, X, np.arange(40) % 2 == 0)
    assert found.num_classes == 2


def archive(path, header: bytes, body: bytes) -> str:
    """An .npz whose array has a header of one's own."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.zeros(1))
    prefix = buffer.getvalue()[:8]
    padded = header + b" " * (118 - len(header) - 1) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", prefix + len(padded).to_bytes(2, "little") + padded + body)
        file.writestr("y.npy", prefix + len(padded).to_bytes(2, "little") + padded + body)
    return str(path)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }", "8,000,000,000,000 bytes, but"),
        (b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", "-8 bytes"),
        (b"{'descr': '<f8', 'fortran_order': False, 'shape': (2.5,), }", "not a readable"),
        (b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "holds objects"),
        (b"{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,), }", "not a readable"),
        (b"{'descr': '<f8'", "not a readable"),
        (b"__import__('os').system('x')", "not a readable"),
    ],
)
def test_headers_that_lie(header, says, tmp_path):
    started = time.process_time()
    with pytest.raises(InputError, match=says):
        read_npz(archive(tmp_path / "d.npz", header, b"\0" * 8), ("x", "y"))
    assert time.process_time() - started < 1


def test_archives_cut_anywhere(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=np.zeros(40, int))
    content = (tmp_path / "d.npz").read_bytes()
    for end in range(0, len(content), len(content) // 20):
        (tmp_path / "cut.npz").write_bytes(content[:end])
        with pytest.raises(InputError, match="not a readable"):
            read_npz(str(tmp_path / "cut.npz"), ("x", "y"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "needs a header"),
        (b"a,label\n", "needs a header"),
        (b"label\n1\n2\n3\n", "two columns"),
        (b"a,label\n1,0\n2\n3,1\n", "line 3: every row needs 2 numbers"),
        (b"a,label\n1,0\n\n\nx,1\n", "line 5: every row"),
        (b"a,label\n1,0\ninf,1\n3,1\n", "NaN or infinite"),
        (b"a,label\n1,0\n2,nan\n3,1\n", "targets hold NaN"),
        (b"a,label\n1,0\n\xff,1\n", "not UTF-8"),
        ("a,label\n1,0\n2,1\n".encode("utf-16"), "not UTF-8"),
        (b"a,label\n1,\0\n2,1\n", "line"),
        (b"a,label\n" + b"9" * 200_000 + b",1\n2,1\n", "field"),
        (b'a,label\n"1\n,0\n2,1\n', "needs a header|every row"),
    ],
)
def test_tables_that_are_none(text, says, tmp_path):
    (tmp_path / "d.csv").write_bytes(text)
    with pytest.raises(InputError, match=says):
        open_data(f"csv:{tmp_path}/d.csv")


def test_a_table_with_a_mark_and_empty_lines(tmp_path):
    rows = "\n\n".join(f"{i},{i % 2}" for i in range(20))
    (tmp_path / "d.csv").write_text(f"a,label\n{rows}\n", encoding="utf-8-sig")
    found = open_data(f"csv:{tmp_path}/d.csv")
    assert sum(found.size(split) for split in ("train", "val", "test")) == 20
