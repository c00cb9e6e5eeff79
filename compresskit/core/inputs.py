"""Example inputs: described in JSON, made from the description alone, the same on every machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .types import Inputs

_GOLDEN = 0.6180339887498949
_FORM = re.compile(
    r"^(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:,\d+)*)(?::(?P<dtype>[a-z]+\d*)(?::(?P<high>\d+))?)?$"
)


def describe(inputs: Any) -> Any:
    """A JSON-able description of inputs: every tensor becomes {shape, dtype[, high]}."""
    if isinstance(inputs, Tensor):
        record: dict[str, Any] = {"shape": list(inputs.shape), "dtype": str(inputs.dtype).removeprefix("torch.")}
        if not inputs.is_floating_point() and inputs.dtype != torch.bool:
            record["high"] = int(inputs.max()) + 1 if inputs.numel() else 1
        return record
    if isinstance(inputs, Mapping):
        return {"mapping": {key: describe(value) for key, value in inputs.items()}}
    if isinstance(inputs, tuple | list):
        return {"tuple" if isinstance(inputs, tuple) else "list": [describe(value) for value in inputs]}
    raise InputError(f"an example input must be made of tensors, got {type(inputs).__name__}")


def make(description: Any, batch: int | None = None) -> Any:
    """Inputs from a description; floats spread evenly over [-1.73, 1.73] (unit variance), no generator involved.

    Args:
        description: what `describe` returns.
        batch: replaces the first dimension of every tensor; None keeps it.
    Raises:
        InputError: if the description is malformed.
    """
    try:
        if "mapping" in description:
            return {key: make(value, batch) for key, value in description["mapping"].items()}
        if "tuple" in description:
            return tuple(make(value, batch) for value in description["tuple"])
        if "list" in description:
            # a list holds one unbatched image an entry (detection models)
            items = description["list"]
            return [make(value) for value in items] * (batch or 1) if items else []
        shape = [batch if batch and axis == 0 else size for axis, size in enumerate(description["shape"])]
        return _values(shape, getattr(torch, description["dtype"]), description.get("high"))
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"malformed input description {description!r}: {error}") from error


def _values(shape: list[int], dtype: torch.dtype, high: int | None) -> Tensor:
    count = torch.Size(shape).numel()
    steps = torch.arange(count, dtype=torch.float64)
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype)
    if not dtype.is_floating_point:
        return ((steps * 7919) % max(high or 2, 1)).to(dtype).reshape(shape)
    return ((((steps + 1) * _GOLDEN) % 1.0 - 0.5) * 12**0.5).to(dtype).reshape(shape)


def parse(forms: Iterable[str]) -> Inputs:
    """Inputs from the strings users write: `3,224,224` or `input_ids=16:int64:1000` (shapes without the batch).

    Raises:
        InputError: naming the malformed string.
    """
    named: dict[str, Tensor] = {}
    plain: list[Tensor] = []
    for form in forms:
        match = _FORM.match(form.replace(" ", ""))
        dtype = getattr(torch, match["dtype"] or "float32", None) if match else None
        if not isinstance(dtype, torch.dtype):
            raise InputError(
                f"input {form!r}: write [NAME=]D,D,...[:DTYPE[:HIGH]], e.g. 3,224,224 or ids=16:int64:1000"
            )
        shape = [1, *map(int, match["shape"].split(","))]
        tensor = _values(shape, dtype, int(match["high"]) if match["high"] else None)
        if match["name"]:
            named[match["name"]] = tensor
        else:
            plain.append(tensor)
    if named and plain:
        raise InputError("inputs must be all named (name=shape) or none of them")
    if named:
        return named
    return plain[0] if len(plain) == 1 else tuple(plain)


def with_batch(inputs: Inputs, batch: int) -> Inputs:
    """Example inputs of another batch size."""
    return make(describe(inputs), batch)
