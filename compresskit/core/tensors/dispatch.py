"""Watching operations where they reach a kernel."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor, peek_interpreter_stack
from torch.utils._python_dispatch import TorchDispatchMode

Result = TypeVar("Result")
_COMPILER = "torch._dynamo"


class OperationMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The base of modes that see every operation, without torch's compiler.

    Torch has its compiler skip the method that a mode is called by, and loads it for that at the first operation,
    which takes as long as `import torch`. What is watched here runs as it is written, so there is nothing to skip.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


@contextmanager
def unfused() -> Iterator[None]:
    """Attention and encoder layers of torch run as written: their fused inference kernels read weights past layers."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def inside_vmap() -> bool:
    """Whether `torch.vmap`, or another transform of torch.func, runs now: layers are then shown one example."""
    return peek_interpreter_stack() is not None


def without_vmap(tensor: Tensor) -> Tensor:
    """What the kernels see of a tensor inside of `torch.vmap`: all its examples; outside of it the tensor itself."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor


def as_written(run: Callable[[], Result]) -> Result:
    """What a run gives with compiled functions run as they are written: what a compiler fuses can't be watched.

    Args:
        run: called again if it was the first in this process to compile something.
    """
    if _COMPILER not in sys.modules:  # to load it takes as long as torch itself, and only what compiles has it loaded
        try:
            found = run()
        except Exception:
            if _COMPILER not in sys.modules:
                raise
        else:
            if _COMPILER not in sys.modules:
                return found
    with torch.compiler.set_stance("force_eager"):
        return run()
