"""Image files as splits."""

from __future__ import annotations

import numpy as np
import torch

from compresskit.data.splits.files import FileSplit, cached


def test_the_cache_gives_the_same_values_in_the_same_order_of_memory(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((5, 4, 3), number, np.uint8)).save(path)
    split = FileSplit(paths, torch.arange(3), (5, 4), 3)
    assert split.size_bytes == 180
    first, again = cached(split), cached(split)
    assert torch.equal(first, again) and first.stride() == again.stride() == split.take(torch.arange(3))[0].stride()
