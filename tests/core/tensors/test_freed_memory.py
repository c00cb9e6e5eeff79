"""Freed memory goes back to the system, where the C library can do that."""

import sys
import tempfile
from pathlib import Path

import pytest
import torch

from compresskit.core.tensors.freed_memory import release_pages, return_freed_memory


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


def file_pages_kb() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("RssFile"))


@pytest.fixture
def on_disk():
    """A folder of the disk, as that of `tmp_path` may not be: pages of files in memory count apart."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_tensors_of_a_file_leave_memory_and_keep_their_values(on_disk):
    count = 4_000_000
    torch.arange(count, dtype=torch.float32).numpy().tofile(on_disk / "values")
    mapped = torch.from_file(str(on_disk / "values"), shared=False, size=count, dtype=torch.float32)
    assert mapped.sum() > 0  # all is read
    before = file_pages_kb()
    release_pages(mapped)
    assert before - file_pages_kb() > 0.9 * mapped.nbytes / 1024
    assert torch.equal(mapped, torch.arange(count, dtype=torch.float32))


def test_tensors_that_no_file_holds_keep_their_values():
    changed, strided = torch.arange(100_000.0), torch.arange(100_000.0).reshape(100, 1000).T
    for one in (changed, strided, torch.empty(5, device="meta"), torch.empty(0)):
        release_pages(one)
    assert torch.equal(changed, torch.arange(100_000.0)) and strided[3, 2] == 2003
