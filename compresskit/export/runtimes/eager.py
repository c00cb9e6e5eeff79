"""PyTorch as it is."""

from __future__ import annotations

from torch import nn

from ...core.errors import InputError
from .exported import Exported


def eager(exported: Exported) -> nn.Module:
    """The quantized model in PyTorch.

    Raises:
        InputError: if there is nothing but a file that PyTorch does not read.
    """
    if exported.module is None:
        raise InputError(f"{exported.path.name!r} does not run in eager PyTorch; choose another runtime")
    return exported.module.eval()
