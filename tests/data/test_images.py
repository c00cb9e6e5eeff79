"""Image files: every mode decoded as what it shows, everything else named."""

from __future__ import annotations

import os
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.data.images import decode, find_images

Image = pytest.importorskip("PIL.Image")


def written(path: Path, pixels: np.ndarray, mode: str, **options) -> Path:
    Image.fromarray(pixels).convert(mode, palette=Image.Palette.ADAPTIVE).save(path, **options)
    return path


GREY = np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8)[..., None] * 3, 3, axis=2)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA"])
def test_modes_show_the_same(mode, tmp_path):
    path = written(tmp_path / "x.png", GREY, mode)
    assert np.array_equal(decode(path, (8, 8), 3), GREY.transpose(2, 0, 1))
    assert np.array_equal(decode(path, (8, 8), 1)[0], GREY[..., 0])


def test_cmyk(tmp_path):
    path = written(tmp_path / "x.tiff", GREY, "CMYK")
    assert np.abs(decode(path, (8, 8), 3).astype(int) - GREY.transpose(2, 0, 1)).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_keep_their_upper_8(suffix, tmp_path):
    deep = GREY[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / f"x.{suffix}")
    assert np.array_equal(decode(tmp_path / f"x.{suffix}", (8, 8), 1)[0], GREY[..., 0])


def test_an_animation_shows_its_first_picture(tmp_path):
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    first.save(tmp_path / "x.webp", save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(decode(tmp_path / "x.webp", (8, 8), 3), GREY.transpose(2, 0, 1))


def bomb(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    path.write_bytes(bytes(content))


BROKEN = {
    "over Pillow's limit": (bomb, "decompression bomb"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "text": (lambda path: path.write_text("no image"), "cannot be read"),
    "float pixels": (lambda path: Image.new("F", (8, 8)).save(path, "tiff"), "float pixels"),
}


@pytest.mark.parametrize(("spoil", "says"), BROKEN.values(), ids=BROKEN)
def test_broken_images_are_named(spoil, says, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for label in ("a", "b"):
        (tmp_path / "i" / label).mkdir(parents=True)
        for index in range(6):
            written(tmp_path / "i" / label / f"{index}.png", GREY, "RGB")
    spoil(tmp_path / "i" / "b" / "3.png")
    with pytest.raises(InputError, match=says) as error:
        open_data(f"imagefolder:{tmp_path}/i")
    assert "3.png" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_what_lies_in_the_way_of_images(tmp_path):
    written(tmp_path / "good.png", GREY, "RGB")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [path.name for path in find_images(tmp_path)] == ["good.png"]
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match=r"pipe.png' is not a regular file"):
        find_images(tmp_path)
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "circle.png").symlink_to("circle.png")
    with pytest.raises(InputError, match="lead in a circle"):
        find_images(tmp_path)
    (tmp_path / "circle.png").unlink()
    (tmp_path / "gone.png").symlink_to("nowhere")
    with pytest.raises(InputError, match="does not exist"):
        find_images(tmp_path)
    (tmp_path / "gone.png").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.png"))
        with pytest.raises(InputError, match="not a regular file"):
            find_images(tmp_path)
