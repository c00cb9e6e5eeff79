"""Names for the objects of a call, so that they pass through options, which are strings."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..artifact.from_memory import loaded_from
from ..artifact.module_state import state_of
from ..core.errors import InputError
from ..core.types import Loaded
from ..core.user_code.in_memory import PREFIX, MemorySource
from ..training.checkpoints.checkpoint import fingerprint
from .result import Result

_PLAIN = (str, int, float, bool, type(None))


class Objects:
    """The objects of one call by name.

    A name ends in digits that change with what the object holds, so that `resume` and caches find out about changes. Of
    what cannot be read (a loader, a function without source) the digits are random: it never counts as unchanged.

    Attributes:
        named: name -> object, for `core.user_code.in_memory.named_objects`.
        module: the first module that was named, as its caller gave it.
    """

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}
        self.module: nn.Module | None = None
        self._example: Any = None

    def model(self, value: Any, **options: Any) -> str:
        """The string of a model: itself, or the name of a module.

        Args:
            value: a string, a path, a module, or a Result.
            options: of a module: example, source and its arguments, as `loaded_from` takes them.
        Raises:
            InputError: if it is none of these, or the module cannot be changed.
        """
        if isinstance(value, Result):
            value = value.model
        if isinstance(value, str | os.PathLike):
            return os.fspath(value)
        if not isinstance(value, nn.Module):
            raise InputError(
                f"a model is a string, an artifact directory, an nn.Module or a Result, not {type(value).__name__}"
            )
        if isinstance(options.get("example"), list):
            options["example"] = tuple(options["example"])
        if self.module is None:
            self.module, self._example = value, options.get("example")
        loaded = loaded_from(value, **options)
        if loaded.example is None and self._example is not None:  # a teacher takes what the model does
            loaded = loaded_from(value, **{**options, "example": self._example})
        return self._add(loaded, type(value).__name__, _digest_of(loaded))

    def data(self, value: Any) -> str | None:
        """The string of data: itself, or the name of an object."""
        if value is None or isinstance(value, str | os.PathLike):
            return value if value is None else os.fspath(value)
        label = getattr(value, "__name__", type(value).__name__)
        return self._add(value, label, _digest_of_data(value))

    def function(self, value: Any) -> Any:
        """The name of a function; anything but a callable stays what it is."""
        if not callable(value):
            return value
        return self._add(value, getattr(value, "__name__", type(value).__name__), _digest_of_code(value))

    def option(self, name: str, value: Any, takes: str) -> Any:
        """An option's value as plain data.

        Args:
            name: the option, for errors.
            value: what was given.
            takes: the kind of object that the option takes, or "".
        Raises:
            InputError: if the option takes no such object.
        """
        if takes == "data":
            return self.data(value)
        if isinstance(value, Mapping):
            keys = [self.function(key) if takes == "function" else str(key) for key in value]
            values = [self.option(f"{name}.{key}", one, takes) for key, one in zip(keys, value.values(), strict=True)]
            return dict(zip(keys, values, strict=True))
        if isinstance(value, list | tuple | set | frozenset):
            return [self.option(name, one, takes) for one in value]
        if takes == "model" and value is not None:
            return self.model(value)
        if takes == "function" and not isinstance(value, str):
            return self.function(value)
        if takes == "row" and not isinstance(value, str) and value is not None:
            return self._add(value, type(value).__name__, secrets.token_hex(6))
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, np.generic | Tensor) and getattr(value, "ndim", 0) == 0:
            return value.item()
        raise InputError(f"{name} takes plain values, not {type(value).__name__}")

    def _add(self, value: Any, label: str, digest: str) -> str:
        name = f"{re.sub(r'[^0-9A-Za-z]', '_', label)}_{digest}"
        self.named[name] = value
        return f"{PREFIX}:{name}"


def _digest_of(loaded: Loaded) -> str:
    record: dict[str, Any] = {"source": loaded.source, "edits": loaded.edits, "module": str(loaded.module)}
    if isinstance(loaded.source, MemorySource):
        record["code"] = _source_of(type(loaded.source.module))
    return fingerprint(record, state_of(loaded.module).tensors)


def _digest_of_data(value: Any) -> str:
    tensors = _tensors(value)
    return secrets.token_hex(6) if tensors is None else fingerprint({"type": type(value).__name__}, tensors)


def _tensors(value: Any, path: str = "data") -> dict[str, Tensor] | None:
    """Tensors of nested tuples, lists and mappings, by place; None where anything else is among them."""
    if isinstance(value, torch.utils.data.TensorDataset):
        value = value.tensors
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        return {path: value}
    if not isinstance(value, Mapping | tuple | list):
        return None
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    found: dict[str, Tensor] = {}
    for key, one in items:
        inner = _tensors(one, f"{path}.{key}")
        if inner is None:
            return None
        found |= inner
    return found


def _digest_of_code(value: Any) -> str:
    source = _source_of(value) if not getattr(value, "__closure__", None) else None
    return secrets.token_hex(6) if source is None else hashlib.sha256(source.encode()).hexdigest()[:12]


def _source_of(value: Any) -> str | None:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return None
