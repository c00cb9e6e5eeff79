"""compresskit makes trained PyTorch models smaller and faster, and measures what it did."""

from __future__ import annotations

# `python -m compresskit` has the current folder first in its path until __main__ takes it out: nothing is imported here
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from torch import Tensor, nn

__version__ = "0.1.0"


def load(string: str, **options: Any) -> nn.Module:
    """An ordinary nn.Module, in eval mode, from any model string or artifact directory.

    It remembers where it came from, so that `save` writes it as an artifact again after any training.

    Args:
        string: `torchvision:resnet18`, `builtin:lenet5`, `path/net.py:factory`, an artifact directory, ...
        options: what `compresskit.core.source.load_model` takes (weights, model_args, trust_source, ...).
    Raises:
        compresskit.core.errors.InputError: if the string names nothing loadable.
    """
    from .core.origin import remember
    from .core.source import load_model

    return remember(load_model(string, **options))


def save(
    module: nn.Module,
    folder: str | Path,
    *,
    source: str | None = None,
    example: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor] | None = None,
    force: bool = False,
    **options: Any,
) -> int:
    """Write a module as an artifact that loads without pickle, and that every command takes.

    A module that `load` returned keeps its edits, storage and preprocessing: load, train in any loop, save. Any other
    module needs the string that builds it:

        compresskit.save(net, "runs/mine", source="net.py:make", example=torch.zeros(1, 3, 32, 32))

    Args:
        module: its weights are saved; torch.compile and data-parallel wrappers are looked through. It is left as it is.
        folder: the directory to create.
        source: the model string that builds the module; None takes what `load` made it from.
        example: inputs that the module takes; None takes the source's own.
        force: replace an artifact that is there.
        options: what `load` takes beside the string of the source (model_args, inputs, trust_source).
    Returns:
        Size of the weights file in bytes.
    Raises:
        compresskit.core.errors.InputError: if the source is unknown or does not build this module, or a weight is NaN.
    """
    from .core.origin import save_module

    return save_module(module, folder, source=source, example=example, force=force, **options)
