"""Reading operations by the names of their schema."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from ..channel_ids import freeze, varying

Trace = Any


@functools.cache
def argument_names(func: Any) -> tuple[str, ...]:
    """Names of an operation's arguments."""
    return tuple(argument.name for argument in func._schema.arguments)


@functools.cache
def plain_name(func: Any) -> str:
    """An operation's name without its namespace."""
    return func._schema.name.partition("::")[2]


def arguments(func: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Arguments of an operation by the names of its schema; absent ones are left out."""
    return {**dict(zip(argument_names(func), args, strict=False)), **kwargs}


def freeze_input(trace: Trace, tensor: Tensor, dims: list[int], reason: str) -> None:
    """Tie an operand's ids along dimensions that must keep their length."""
    dims = [d % max(tensor.dim(), 1) for d in dims]
    if id(tensor) in trace.stored:
        stored = trace.stored[id(tensor)]
        stored.planes = [freeze(trace.ids, plane, dims, reason) for plane in trace.planes(tensor)]
        stored.planes = [plane for plane in stored.planes if varying(plane)]
    else:
        trace.set(tensor, [freeze(trace.ids, plane, dims, reason) for plane in trace.planes(tensor)])


def flat(args: tuple, kwargs: dict) -> list:
    """Arguments in order, those inside lists and tuples among them."""
    found: list[Any] = []
    for arg in (*args, *kwargs.values()):
        found.extend(arg) if isinstance(arg, tuple | list) else found.append(arg)
    return found


def unknown(trace: Trace, func: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operation without a rule: all ids that reach it stay."""
    output = func(*args, **kwargs)
    name = plain_name(func)
    for tensor in flat(args, kwargs):
        if isinstance(tensor, Tensor):
            for plane in trace.planes(tensor):
                trace.unknown.setdefault(name, trace.site(name))
                trace.ids.pin(plane, f"operation {trace.site(name)} is not known")
    return output
