"""Giving memory that is not needed at the moment back to the system."""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from typing import Any

from torch import Tensor

#: advice to the kernel that pages are not needed for now (Linux 5.4); their values stay, on the disk
_PAGE_OUT = 21
#: the C library's name for the most pools that threads take memory from
_MOST_POOLS = -8


@cache
def _c_function(name: str) -> Any:
    """A function of the C library; None where it has none (glibc on Linux has all that are asked for here)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def return_freed_memory() -> None:
    """Hand freed memory back, which the C library keeps in pieces after many large tensors came and went.

    GPTQ of a Llama of 50 M parameters, above the model itself (one core, glibc 2.36): 6.8 bytes a parameter without it.
    """
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def share_memory_pool() -> None:
    """Let threads that start from now on take memory from the pool of the whole process, for as long as it runs.

    Else each has a pool of its own, where what it frees lies in pieces that others cannot use and that do not go back.
    With eight threads that take turns, GPTQ of a Llama of 37 M parameters held 125 MB at the end without it, 18 MB so.
    """
    set_option = _c_function("mallopt")
    if set_option is not None:
        set_option(_MOST_POOLS, 1)


def release_pages(tensor: Tensor) -> None:
    """Take a tensor that is mapped from a file out of memory until it is read again; others stay where they are."""
    advise = _c_function("madvise")
    if advise is None or tensor.device.type != "cpu" or tensor.is_meta or not tensor.is_contiguous():
        return
    page = mmap.PAGESIZE
    start, end = -(-tensor.data_ptr() // page) * page, (tensor.data_ptr() + tensor.nbytes) // page * page
    if end > start:
        advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _PAGE_OUT)  # advice: a refusal changes nothing
