"""Source records: the JSON-able part of a model string, from which the unedited module is built again.

A record is {kind, ...}. Weights are not part of it.
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..core.errors import InputError
from ..core.manifest.preprocessing import declared_normalization, declared_shape
from ..core.tensors.copying import copy_module
from ..core.tensors.dtypes import model_dtype
from ..core.tensors.randomness import manual_seed, unchanged_random_state
from ..core.types import Inputs, Preprocessing
from ..core.user_code.in_memory import MemorySource
from ..core.user_code.user_imports import call_factory, file_attribute, import_attribute
from .example_inputs import one_of_batch, settle, spread
from .libraries import hub
from .strings import split
from .tables import BUILTINS
from .wrappers import unwrapped

USER_CODE = ("file", "module", "memory")  # kinds of sources whose code runs only when its user named it
WITHOUT_WEIGHTS = ("torchvision", "timm", "builtin")  # kinds of models that come untrained where no weights are named


def parse(string: str, model_args: dict[str, Any]) -> dict[str, Any]:
    """A source record from a model string that names a factory.

    Raises:
        InputError: if the string has none of the forms, or names what is not there.
    """
    kind, where, name = split(string)
    if kind == "hf":
        return hub.hf_record(name, model_args)
    if kind == "file":
        return {"kind": kind, "path": where, "factory": name, "args": model_args}
    if kind == "module":
        return {"kind": kind, "module": where, "factory": name, "args": model_args}
    return {"kind": kind, "name": name, "args": model_args}


def build(record: dict[str, Any]) -> nn.Module:
    """The unedited module of a source record, on the current default device (meta included)."""
    return builder(record)()


def builder(record: dict[str, Any]) -> Callable[[], nn.Module]:
    """What builds the unedited module of a source record, without weights; files and modules are imported here.

    Raises:
        InputError: if the record names a file, a module or an attribute that is not there.
    """
    make = _builder(record, weights="none")
    return lambda: make()[0]


def build_with_defaults(record: dict[str, Any], pretrained: bool) -> tuple[nn.Module, dict[str, Any]]:
    """The module with its weights where a library brings them, and its defaults.

    Returns:
        (module, {"example": inputs or None, "preprocessing": Preprocessing}).
    """
    kind = record.get("kind")
    if pretrained and kind not in ("torchvision", "timm", "hf"):
        raise InputError(f"weights 'pretrained': a {kind} model has no published weights; name a weights file")
    module, found = _builder(record, "published" if pretrained else "own")()
    return module, {
        "example": own_example(module) if "example" not in found else found["example"],
        "preprocessing": found.get("preprocessing", preprocessing_of(module)),
    }


def _builder(
    record: dict[str, Any], weights: Literal["none", "own", "published"]
) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    kind = record.get("kind")
    libraries = {"torchvision": hub.torchvision_model, "timm": hub.timm_model, "hf": hub.hf_model}
    factories = {
        "builtin": _builtin,
        "module": _users_factory,
        "file": _users_factory,
        "memory": _memory_copy,
    }
    make: Callable[[], tuple[nn.Module, dict[str, Any]]]
    if kind == "hf" and weights == "none":
        make = partial(_without_defaults, partial(hub.hf_architecture, record))
    elif kind in libraries:
        make = partial(libraries[kind], record, weights == "published")
    elif kind in factories:
        make = partial(_without_defaults, factories[kind](record))
    else:
        raise InputError(f"source kind {kind!r} is not one of {', '.join([*factories, *libraries])}")

    def unwrapped_model() -> tuple[nn.Module, dict[str, Any]]:
        module, found = make()
        return unwrapped(module, f"model {source_string(record)!r}"), found

    return unwrapped_model


def _without_defaults(make: Callable[[], nn.Module]) -> tuple[nn.Module, dict[str, Any]]:
    return make(), {}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's, numpy's and Python's generators start from a seed, and go on afterwards as if nothing had been drawn."""
    with unchanged_random_state():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        manual_seed(seed)
        yield


def own_example(module: nn.Module) -> Inputs | None:
    """What a module says of its inputs: `example_inputs` (or Lightning's `example_input_array`), else `input_shape`.

    Returns:
        Settled inputs of one example, floats of `input_shape` in the module's own dtype; None where it says nothing.
    Raises:
        InputError: if `example_inputs` is not made of tensors.
    """
    for name in ("example_inputs", "example_input_array"):
        given = getattr(module, name, None)
        if given is not None and not callable(given):
            return settle(one_of_batch(given))
    shape = declared_shape(getattr(module, "input_shape", None))
    return None if shape is None else spread([1, *shape], model_dtype(module) or torch.float32)


def source_string(record: dict[str, Any]) -> str:
    """The model string that a source record came from."""
    if record.get("factory"):
        return f"{record.get('path') or record.get('module')}:{record['factory']}"
    return f"{record.get('kind')}:{record.get('name')}"


def preprocessing_of(module: nn.Module) -> Preprocessing:
    """What a module says of its own inputs: `mean` and `std`, a number a channel each, and `input_shape`.

    Attributes of these names that are anything else (buffers, methods, a single number) belong to the module's own
    forward, which then normalizes by itself.

    Raises:
        InputError: if `std` holds a zero.
    """
    shape = declared_shape(getattr(module, "input_shape", None))
    channels, size = (shape[0], (shape[1], shape[2])) if shape is not None and len(shape) == 3 else (None, None)
    mean, std = declared_normalization(
        getattr(module, "mean", None), getattr(module, "std", None), f"the model ({type(module).__name__})"
    )
    return Preprocessing(mean, std, size, channels)


def _builtin(record: dict[str, Any]) -> Callable[[], nn.Module]:
    try:
        factory = BUILTINS.load(record["name"])
    except ValueError as error:
        raise InputError(str(error)) from None
    return partial(call_factory, factory, record["args"], f"builtin:{record['name']}")


def _users_factory(record: dict[str, Any]) -> Callable[[], nn.Module]:
    find, where = (file_attribute, "path") if record["kind"] == "file" else (import_attribute, "module")
    factory = find(record[where], record["factory"])
    return partial(_unshared, partial(call_factory, factory, record["args"], source_string(record)))


def _unshared(make: Callable[[], Any]) -> Any:
    """What a factory makes, copied where the user's code keeps hold of it (a global, a cache).

    What is cut or trained must not be what the next call returns as the original.
    """
    module = make()
    # the name here and the argument are two references; who holds a third is looked for on the whole heap, 20 ms and up
    if not isinstance(module, nn.Module) or sys.getrefcount(module) <= 2:
        return module
    if all(isinstance(by, FrameType) for by in gc.get_referrers(module)):
        return module
    return copy_module(module)


def _memory_copy(record: dict[str, Any]) -> Callable[[], nn.Module]:
    if not isinstance(record, MemorySource):
        raise InputError(f"{record.get('name')} was a module in memory, which nothing builds again")
    return partial(copy_module, record.module)
