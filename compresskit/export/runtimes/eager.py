"""PyTorch as it is."""

from __future__ import annotations

from torch import nn

from .exported import Exported


def eager(exported: Exported) -> nn.Module:
    """The quantized model in PyTorch."""
    return exported.module.eval()
