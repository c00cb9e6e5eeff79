"""Examples in image files, decoded as they are taken, or once where they fit into memory."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ..images import decode

CACHED_BYTES = 2 << 30  # decoded images up to this size are kept in memory and in the cache folder


@dataclass
class FileSplit:
    """Image files that are decoded, resized and centre-cropped as they are taken."""

    paths: list[Path]
    targets: Tensor
    size: tuple[int, int]
    channels: int
    draws: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        def read(index: int) -> np.ndarray:
            return decode(self.paths[index], self.size, self.channels)

        if get_worker_info() is not None:  # the processes beside this one keep the other cores busy
            images = list(map(read, indices.tolist()))
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                images = list(pool.map(read, indices.tolist()))
        return torch.from_numpy(np.stack(images)), self.targets[indices]

    def subset(self, indices: Tensor) -> FileSplit:
        """Fewer of the files."""
        return FileSplit([self.paths[i] for i in indices.tolist()], self.targets[indices], self.size, self.channels)

    @property
    def size_bytes(self) -> int:
        """Bytes of all images decoded."""
        return len(self.paths) * self.channels * self.size[0] * self.size[1]


def cache_folder() -> Path:
    """Where decoded data is kept between runs: $XDG_CACHE_HOME/compresskit or ~/.cache/compresskit."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compresskit"


def cached(split: FileSplit) -> Tensor:
    """All images of a split decoded; kept as .npy under a key of paths, sizes and times."""
    key = hashlib.sha256(repr((split.size, split.channels)).encode())
    for path in split.paths:
        stat = path.stat()
        key.update(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    cache = cache_folder() / "images" / f"{key.hexdigest()[:32]}.npy"
    if cache.is_file():
        try:
            return torch.from_numpy(np.load(cache))
        except (ValueError, OSError, EOFError):
            cache.unlink(missing_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = np.stack(list(pool.map(lambda path: decode(path, split.size, split.channels), split.paths)))
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_suffix(f".{os.getpid()}.tmp.npy")
        np.save(temporary, images)
        temporary.replace(cache)
    except OSError:  # a cache that cannot be written only costs time
        pass
    return torch.from_numpy(images)
