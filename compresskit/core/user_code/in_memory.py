"""Objects of a running Python session that stand where a string names something elsewhere.

Options are strings, on the command line and in a recipe. A module, a data loader or a function that Python code hands
over is therefore given a name, `in-memory:NAME`, which means the object for as long as `named_objects` is open.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from torch import nn

#: what such strings begin with; no importable module is called so
PREFIX = "in-memory"
_objects: ContextVar[Mapping[str, Any] | None] = ContextVar("objects", default=None)


class MemorySource(dict[str, Any]):
    """The source record of a module that no code builds again: JSON-able, with the module beside it.

    Args:
        module: as it was before any edit; copied each time it is built.
    """

    def __init__(self, module: nn.Module):
        kind = type(module)
        super().__init__(kind="memory", name=kind.__name__, **{"class": f"{kind.__module__}.{kind.__qualname__}"})
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> MemorySource:
        return self  # never changed


@contextmanager
def named_objects(objects: Mapping[str, Any]) -> Iterator[None]:
    """While open, `in-memory:NAME` means an object; names that are open already go on to hold.

    Args:
        objects: by name, without the prefix; those added later count too.
    """
    token = _objects.set(ChainMap(objects, _objects.get() or {}))  # type: ignore[arg-type]  # nothing is set in it
    try:
        yield
    finally:
        _objects.reset(token)


def open_objects() -> Mapping[str, Any]:
    """Everything that has such a name now."""
    return dict(_objects.get() or {})


def is_in_memory(string: str) -> bool:
    """Whether a string names an object of a Python session."""
    return string.startswith(f"{PREFIX}:")


def label(string: str) -> str:
    """What reports call an object: its name without the digits that tell it from others."""
    return string.partition(":")[2].rpartition("_")[0].strip("_")


def find(string: str) -> Any:
    """The object that `in-memory:NAME` means.

    Raises:
        InputError: outside of the session that named it.
    """
    objects, name = _objects.get() or {}, string.partition(":")[2]
    if name not in objects:
        raise InputError(f"{string!r} was an object of a Python session, which is over; name what stands for it now")
    return objects[name]
