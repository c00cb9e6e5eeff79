"""The few records that every room passes around: a loaded model, its inputs, and how it is called."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from .errors import InputError, first_line
from .tensors.copying import copy_module
from .tensors.devices import to_device as to_device
from .tensors.dtypes import fit_inputs, is_widened, own_precision

#: one batch of inputs: a tensor, a tuple of positional tensors, or a mapping: of keyword tensors, or the one argument
#: of a forward that knows none of its keys
Inputs = Tensor | tuple[Any, ...] | Mapping[str, Tensor]


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of an image in [0, 1]: normalization and size."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    size: tuple[int, int] | None = None  # (height, width); None keeps the data's own
    channels: int | None = None  # None keeps the data's own


@dataclass
class Loaded:
    """A model with everything needed to rebuild it: source, edits, and an example input.

    Attributes:
        module: the module, in eval mode.
        source: JSON-able record from which the unedited module is built again.
        example: inputs of batch size 1 that the module accepts.
        edits: records of final geometry, replayed in order on the unedited module.
        storage: tensor name -> storage codec (`artifact.codecs.storage.CODECS`); "bitmap" also keeps zeros zero.
        preprocessing: what the model expects of its inputs.
        name: short name for reports.
        notes: lines on how it was loaded: which weights were taken, what was left out or folded.
        seed: the seed under which the module was built, so that it is built again with the same random draws.
        random_weights: whether nothing but that seed decided the weights, as far as is known.
        companions: small files that belong to the model (tokenizer, generation settings): name -> path.
    """

    module: nn.Module
    source: dict[str, Any]
    example: Inputs
    edits: list[dict[str, Any]] = field(default_factory=list)
    storage: dict[str, str] = field(default_factory=dict)
    preprocessing: Preprocessing = Preprocessing()
    name: str = "model"
    notes: list[str] = field(default_factory=list)
    seed: int = 0
    random_weights: bool = False
    companions: dict[str, Path] = field(default_factory=dict)

    def clone(self) -> Loaded:
        """A deep copy: changing it leaves this one untouched."""
        return copy.deepcopy(self, {id(self.module): copy_module(self.module)})


def or_later(example: Inputs | None) -> Inputs:
    """An example input, or None in its place: what reads models leaves it open where the data is to give it.

    `with_example`, through which every command opens a model, fills it or refuses the model.
    """
    return cast(Inputs, example)


def call(module: nn.Module, inputs: Inputs) -> Any:
    """Run a module on one batch of inputs, whatever their form, which are brought to its device and its number type.

    Raises:
        InputError: if the model runs in its own 16-bit type only, where it is needed in float32.
    """
    try:
        with own_precision(module):
            return invoke(module, fit_inputs(module, inputs))
    except RuntimeError as error:
        if not is_widened(module):
            raise
        raise InputError(
            "the model does not run in float32, in which 16-bit weights are trained and their gradients taken "
            f"({first_line(error)}); in forward, cast to the weights' dtype in the place of a fixed one"
        ) from error


def invoke(module: nn.Module, inputs: Inputs) -> Any:
    """Run a module on one batch of inputs as they are."""
    positional, named = as_arguments(module, inputs)
    return module(*positional, **named)


def as_arguments(module: nn.Module, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that a batch of inputs stands for."""
    if isinstance(inputs, Mapping):
        return ((inputs,), {}) if _takes_whole(module, inputs) else ((), dict(inputs))
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def _takes_whole(module: nn.Module, inputs: Mapping[str, Any]) -> bool:
    """Whether forward wants a mapping as it is: it has one argument to fill, and none is called like a key."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return False
    if any(parameter.kind is parameter.VAR_KEYWORD or parameter.name in inputs for parameter in parameters):
        return False
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return bool(positional) and sum(one.default is one.empty for one in parameters) <= 1


def main_output(outputs: Any) -> Tensor:
    """The tensor a metric or loss looks at: the logits of whatever structure a model returns.

    Raises:
        TypeError: if there is no tensor in the outputs.
    """
    found = _first_tensor(outputs)
    if found is None:
        raise TypeError(f"no tensor in a model output of type {type(outputs).__name__}")
    return found


def _first_tensor(outputs: Any) -> Tensor | None:
    """The first tensor depth first; the usual names of logits go before the rest."""
    if isinstance(outputs, Tensor):
        return outputs
    for name in ("logits", "out", "last_hidden_state"):
        inner = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if isinstance(inner, Tensor):
            return inner
    return next((tensor for _, value in children(outputs) if (tensor := _first_tensor(value)) is not None), None)


def children(outputs: Any) -> list[tuple[str, Any]]:
    """What a structure of outputs holds, one level down: (name, value) of mappings, sequences and dataclasses."""
    if isinstance(outputs, Mapping):
        return [(str(key), value) for key, value in outputs.items()]
    if isinstance(outputs, tuple | list):
        return [(str(index), value) for index, value in enumerate(outputs)]
    if is_dataclass(outputs) and not isinstance(outputs, type):
        return [(entry.name, getattr(outputs, entry.name, None)) for entry in fields(outputs)]
    return []
