"""Data files of every reader with their values, headers or bytes changed."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .kinds import SMALL, kind
from .mutation import noisy


@kind
def npz_arrays(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Arrays of every type, order and shape."""
    count = draw.choice((0, 1, 2, 40, 40, 40))
    x = np.random.default_rng(draw.randrange(100)).random((count, 1, 8, 8))
    y = np.arange(count) % 10
    types = ("<f2", ">f4", ">f8", "f8", "i1", ">i2", "u8", "?", "c8", "S3", "U3", "M8[s]", "m8[s]", "V4")
    with np.errstate(all="ignore"), contextlib.suppress(TypeError, ValueError):
        if draw.random() < 0.5:
            x = x.astype(draw.choice(types))
        else:
            y = y.astype(draw.choice(types))
    shapes: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda a: a, lambda a: a[::-1], np.asfortranarray, lambda a: a.reshape(-1), lambda a: a[: count // 2],
        lambda a: np.asarray(a.reshape(-1)[0]) if a.size else a, lambda a: a[..., None], lambda a: a.T,
    ]  # fmt: skip
    x, y = draw.choice(shapes)(x), draw.choice(shapes)(y)
    if draw.random() < 0.3 and y.dtype.kind == "f" and y.size:
        y.reshape(-1)[0] = draw.choice((np.nan, np.inf, -1.0, 0.5, 1e30))
    if draw.random() < 0.3 and y.dtype.kind in "iu" and y.size:
        y = y.copy()
        y.reshape(-1)[0] = draw.choice((np.iinfo(y.dtype).min, np.iinfo(y.dtype).max))
    names = draw.choice((*[("x", "y")] * 6, ("x_train", "y_train"), ("x", "z"), ("x\n", "[red]")))
    both = {names[0]: x, names[1]: y} | ({"x_test": x, "y_test": y} if "train" in names[0] else {})
    np.savez(scratch / "d.npz", **both)
    return ["inspect", SMALL, "--data", "npz:d.npz"]


@kind
def npz_bytes(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """An archive with bytes changed, or a header whose shape lies."""
    content = (good / "d.npz").read_bytes()
    if draw.random() < 0.4:
        lie = draw.choice((b"(9999999, 1, 8, 8)", b"(-1, 1, 8, 8)", b"(10**9,)", b"(1" + b"0" * 15 + b",)", b"()"))
        content = content.replace(b"(40, 1, 8, 8)", lie, 1)
        (scratch / "d.npz").write_bytes(content)
        _rezip(scratch / "d.npz", good / "d.npz", lie)
    else:
        (scratch / "d.npz").write_bytes(noisy(content, draw))
    return ["inspect", SMALL, "--data", "npz:d.npz"]


def _rezip(path: Path, original: Path, lie: bytes) -> None:
    """An archive with sound checksums around an array whose header lies."""
    import zipfile

    with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b"(40, 1, 8, 8)", lie[:13].ljust(13), 1))


@kind
def csv_text(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Tables with bytes and cells changed."""
    text = (good / "d.csv").read_text()
    if draw.random() < 0.5:
        rows = text.splitlines()[: draw.choice((0, 1, 2, 3, 30))]
        for _ in range(draw.choice((1, 2))):
            if rows:
                at = draw.randrange(len(rows))
                cells = rows[at].split(",")
                cells[draw.randrange(len(cells))] = draw.choice(
                    ("", "nan", "inf", "1e999", "x", '"', '"a\nb"', "\0", "9" * 200_000, "-1", "é", "[red]", "0x1")
                )
                rows[at] = ",".join(cells[: draw.choice((1, len(cells), len(cells)))])
        content = "\n".join(rows).encode("utf-8", "surrogatepass")
    else:
        content = noisy(text.encode(), draw)
    (scratch / "d.csv").write_bytes(content if draw.random() < 0.9 else content.decode("latin-1").encode("utf-16"))
    return ["inspect", "builtin:digits_mlp", "--data", "csv:d.csv"]


@kind
def images(draw: random.Random, good: Path, scratch: Path) -> list[str]:
    """Image folders with files broken, of other kinds, and folders missing."""
    import os

    shutil.copytree(good / "images", scratch / "i")
    paths = sorted((scratch / "i").rglob("*.png"))
    for path in draw.sample(paths, draw.choice((1, 2))):
        _spoil_image(path, draw)
    change = draw.randrange(6)
    if change == 0:
        shutil.rmtree(scratch / "i" / "class1")
        (scratch / "i" / "class1").mkdir()
    elif change == 1:
        (scratch / "i" / "class0" / "loop").symlink_to(scratch / "i")
        (scratch / "i" / "class0" / "self.png").symlink_to("self.png")
    elif change == 2:
        os.mkfifo(scratch / "i" / "class0" / "pipe.png")
    elif change == 3:
        (scratch / "i" / "class0").rename(scratch / "i" / "[red]\n:smile:")
    return ["inspect", SMALL, "--data", "imagefolder:i", *draw.choice(([], [], ["--data-arg", "size=9"]))]


def _spoil_image(path: Path, draw: random.Random) -> None:
    from PIL import Image

    mode = draw.choice(
        ("RGB", "CMYK", "P", "LA", "RGBA", "I;16", "I", "F", "1", "bytes", "bytes", "empty", "text", "bomb")
    )
    if mode == "bytes":
        path.write_bytes(noisy(path.read_bytes(), draw))
    elif mode == "empty":
        path.write_bytes(b"")
    elif mode == "text":
        path.write_text("no image")
    elif mode == "bomb":  # a header of 60,000 x 60,000 pixels
        content = bytearray(path.read_bytes())
        content[16:24] = (60_000).to_bytes(4, "big") * 2
        import zlib

        content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
        path.write_bytes(bytes(content))
    else:
        suffix = {"CMYK": "jpeg", "F": "tiff", "I;16": "png", "I": "tiff"}.get(mode, "png")
        Image.new(mode, (9, 7)).save(path, suffix)
