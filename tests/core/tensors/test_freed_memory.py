"""Freed memory goes back to the system, where the C library can do that."""

import sys
from pathlib import Path

import pytest
import torch

from compresskit.core.tensors.freed_memory import return_freed_memory


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_between_pieces_that_stay_goes_back():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    pieces = [torch.ones(20_000) for _ in range(2000)]  # 80 kB each: too small to be mapped by themselves
    kept = pieces[::100]
    full = resident()
    del pieces
    return_freed_memory()
    assert resident() <= full and all(int(one.sum()) == 20_000 for one in kept)
