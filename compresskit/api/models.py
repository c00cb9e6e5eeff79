"""Models in and out: `load` and `save`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..artifact.origin import remember, save_module
from ..artifact.source import load_model
from ..core.errors import InputError
from ..core.reporting.results import only_results_on_stdout
from .types import Example


def load(
    string: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    weights: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    inputs: Sequence[str] | None = None,
    trust_source: bool = False,
    source: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """An ordinary nn.Module, in eval mode, from any model string or artifact directory.

    It remembers where it came from, so that `save` writes it as an artifact again after any training.

    Args:
        string: `torchvision:resnet18`, `builtin:lenet5`, `path/net.py:factory`, an artifact directory, ...
        model: for an artifact that was made from a module in memory: that module as it was before, in any state; the
            artifact's edits and weights go into a copy of it.
        weights: a weights file, or "pretrained"; None for the form's default.
        model_args: keyword arguments of the factory.
        inputs: example inputs, `[NAME=]D,D,...[:DTYPE[:HIGH]]` without the batch dimension.
        trust_source: let an artifact run the user code that it carries, or read a .pt2 file.
        source: user code named again, which an artifact made from user code may then run.
        seed: of the random initialization where no weights are given.
    Raises:
        InputError: (a ValueError) if the string names nothing loadable, or the module is another one.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise InputError(f"load: model is the module that the artifact was made from, not {type(model).__name__}")
    with only_results_on_stdout():
        loaded = load_model(
            os.fspath(string),
            weights=weights,
            model_args=dict(model_args) if model_args else None,
            inputs=list(inputs) if inputs else None,
            trust_source=trust_source,
            source=source,
            module=model,
            seed=seed,
        )
    return remember(loaded)


def save(
    module: nn.Module,
    folder: str | Path,
    *,
    source: str | None = None,
    example: Example | None = None,
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
        InputError: (a ValueError) if the source is unknown or does not build this module, or a weight is NaN.
    """
    with only_results_on_stdout():
        return save_module(module, folder, source=source, example=example, force=force, **options)
