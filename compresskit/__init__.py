"""compresskit makes trained PyTorch models smaller and faster, and measures what it did."""

from __future__ import annotations

# `python -m compresskit` has the current folder first in its path until __main__ takes it out: nothing is imported here
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from torch import nn

__version__ = "0.1.0"


def load(string: str, **options: Any) -> nn.Module:
    """An ordinary nn.Module, in eval mode, from any model string or artifact directory.

    Args:
        string: `torchvision:resnet18`, `builtin:lenet5`, `path/net.py:factory`, an artifact directory, ...
        options: what `compresskit.core.source.load_model` takes (weights, model_args, trust_source, ...).
    Raises:
        compresskit.core.errors.InputError: if the string names nothing loadable.
    """
    from .core.source import load_model

    return load_model(string, **options).module
