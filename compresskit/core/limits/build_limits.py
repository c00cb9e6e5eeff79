"""Limits on what a description may build: modules by number, tensors by size, before a machine is out of memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.parameter import is_lazy

from ..errors import InputError

#: a description may build this many parameters, and modules, whatever the file with its weights holds ...
_ALWAYS_ALLOWED = {"parameters": 3_000, "modules": 30_000}
#: ... and this many a tensor of that file: what was pruned away, merged or replaced is not in it
_A_TENSOR = {"parameters": 20, "modules": 100}
#: a model that must be built for real may be this much larger than the file with its weights: pruned, packed, coded
_LARGEST_RATIO = 1000
_ALWAYS_ALLOWED_BYTES = 1 << 30


@contextmanager
def counted(what: str, tensors: int) -> Iterator[None]:
    """Refuse a description that makes far more layers than its weights file has tensors, while it is making them.

    Args:
        what: the model, for errors.
        tensors: how many the file holds.
    Raises:
        InputError: naming the model.
    """
    made = {"parameters": 0, "modules": 0}

    def count(kind: str, _owner: nn.Module, _name: str, _new: object) -> None:
        made[kind] += 1
        if made[kind] > _ALWAYS_ALLOWED[kind] + _A_TENSOR[kind] * tensors:
            raise InputError(f"{what} is made of {made[kind]:,} {kind}, its weights file has {tensors:,} tensors")

    handles = [
        torch_module.register_module_module_registration_hook(partial(count, "modules")),
        torch_module.register_module_parameter_registration_hook(partial(count, "parameters")),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def size_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers, meta tensors included."""
    tensors: dict[int, Tensor] = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values() if _sized(tensor))


def _sized(tensor: Tensor) -> bool:
    return not is_lazy(tensor)


def check_size(build: Callable[[], nn.Module], what: str, weights_bytes: int | None = None) -> None:
    """Refuse to build for real what is far larger than its weights, or than this machine's memory.

    The size comes from building it on the meta device, where nothing is allocated.

    Args:
        build: makes the module.
        what: the model, for errors.
        weights_bytes: size of the file that its weights come from; None where there is none.
    Raises:
        InputError: with both sizes.
    """
    try:
        with torch.device("meta"):
            needed = size_bytes(build())
    except InputError:
        raise
    except Exception:  # what cannot be built there has no size before it is built
        return
    memory = memory_bytes()
    if needed > memory:
        raise InputError(f"{what} takes {needed:,} bytes, this machine has {memory:,} bytes of memory")
    if weights_bytes is not None and needed > max(_ALWAYS_ALLOWED_BYTES, _LARGEST_RATIO * weights_bytes):
        raise InputError(f"{what} takes {needed:,} bytes, its weights file has only {weights_bytes:,}")


def memory_bytes() -> int:
    """This machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
