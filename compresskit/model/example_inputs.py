"""Example inputs: described in JSON, made from the description alone, the same on every machine.

A tensor is described by the first of these records that gives it back exactly:

    {shape, dtype}              floats spread evenly over [-1.73, 1.73] (unit variance), ones for bool
    {shape, dtype, high}        integers from 0 to high - 1
    {shape, dtype, low, high}   the same spread over [low, high] (floats) or from low to high - 1 (integers)
    {shape, dtype, values}      at most LARGEST_BY_VALUE elements as they are

A larger tensor of other values has no exact description; `settle` replaces it by one of its own shape, dtype and range,
once, where a model is loaded, so that all that follows (measuring, saving, reloading) sees the same tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError, nearest
from ..core.tensors.batches import map_tensors, pick
from ..core.types import Inputs

#: elements of a tensor that a description holds as they are: a manifest stays readable
LARGEST_BY_VALUE = 2048
_LARGEST = 2**28  # elements of one example tensor; more is a mistyped shape, and would exhaust the memory
_GOLDEN = 0.6180339887498949
_STRIDE = 7919  # a prime: integers walk through all residues of nearly every range
_DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    )
}
_FORM = re.compile(
    r"^(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:,\d+)*)?(?::(?P<dtype>[a-z]+\d*)(?::(?P<high>\d+))?)?$"
)


def describe(inputs: Any) -> Any:
    """A JSON-able description of inputs, from which `make` gives the same tensors (see the module's own text).

    Args:
        inputs: a tensor, or mappings, tuples and lists of tensors.
    Raises:
        InputError: if there is anything but dense tensors of ordinary dtypes.
    """
    if isinstance(inputs, Tensor):
        return _describe_tensor(inputs.detach().cpu())
    if isinstance(inputs, Mapping):
        return {"mapping": {key: describe(value) for key, value in inputs.items()}}
    if isinstance(inputs, tuple | list):
        return {"tuple" if isinstance(inputs, tuple) else "list": [describe(value) for value in inputs]}
    raise InputError(f"an example input must be made of tensors, got {type(inputs).__name__}")


def make(description: Any, batch: int | None = None) -> Any:
    """Inputs from a description, no generator involved.

    Args:
        description: what `describe` returns.
        batch: replaces the first dimension of every tensor (rows held by value repeat in turn); None keeps it.
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
        with torch.device("cpu"):  # also where a model is being built on meta
            return _make_tensor(description, batch)
    except InputError:  # of something inside, which is a ValueError too
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputError(f"malformed input description {str(description)[:200]}: {error}") from error


def settle(inputs: Any) -> Any:
    """Inputs as their description gives them back: the same ones, unless they are too large to be held by value."""
    return make(describe(inputs))


def parse(forms: Iterable[str], floating: torch.dtype = torch.float32) -> Inputs:
    """Inputs from the strings users write: `3,224,224`, `ids=16:int64:1000`, or `user=:int64:500` of shape (batch,).

    Args:
        forms: `[NAME=]D,D,...[:DTYPE[:HIGH]]`, shapes without the batch. Integers run from 0 to HIGH - 1 (HIGH is 2
            where it is not given); floats spread over [0, HIGH], or have unit variance without it.
        floating: dtype where none is written.
    Raises:
        InputError: naming the malformed string.
    """
    named: dict[str, Tensor] = {}
    plain: list[Tensor] = []
    for form in forms:
        name, tensor = _parse_one(form, floating)
        if name in named:
            raise InputError(f"input {form!r}: {name!r} is given twice")
        if name:
            named[name] = tensor
        else:
            plain.append(tensor)
    if named and plain:
        raise InputError("inputs must be all named (name=shape) or none of them")
    if named:
        return named
    return plain[0] if len(plain) == 1 else tuple(plain)


def as_forms(inputs: Inputs) -> list[str]:
    """Strings from which `parse` makes inputs of the same names, shapes and dtypes, integers of the same range.

    Args:
        inputs: one tensor, a tuple of tensors or a mapping of tensors, with their batch dimension.
    Raises:
        InputError: if a tensor has no batch dimension, or there is anything but tensors.
    """
    if isinstance(inputs, Mapping):
        return [f"{name}={_form(value)}" for name, value in inputs.items()]
    return [_form(value) for value in (inputs if isinstance(inputs, tuple | list) else (inputs,))]


def _form(tensor: Any) -> str:
    if not isinstance(tensor, Tensor) or not tensor.dim():
        raise InputError("an example of a model string is made of tensors with a batch dimension; write it as input")
    shape = ",".join(str(size) for size in tensor.shape[1:])
    if tensor.dtype == torch.float32 and shape:
        return shape
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        return f"{shape}:{_name(tensor.dtype)}"
    return f"{shape}:{_name(tensor.dtype)}:{max(int(tensor.max()), 0) + 1 if tensor.numel() else 2}"


def with_batch(inputs: Inputs, batch: int) -> Inputs:
    """Example inputs of another batch size."""
    return make(describe(inputs), batch)


def one_of_batch(inputs: Any) -> Any:
    """The first example of a batch; inputs whose tensors do not all share their first dimension stay as they are."""
    sizes = set(_counts(inputs))
    if len(sizes) != 1 or None in sizes or sizes == {0}:
        return inputs
    return pick(inputs, torch.tensor([0]))


def _counts(inputs: Any) -> list[int | None]:
    """How many examples each tensor, and each list of one image an entry, holds; None for a single number."""
    if isinstance(inputs, Tensor):
        return [inputs.shape[0] if inputs.dim() else None]
    if isinstance(inputs, list):
        return [len(inputs)]
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else ()
    return [count for part in parts for count in _counts(part)]


def with_floating(inputs: Any, dtype: torch.dtype | None) -> Any:
    """Settled inputs with floating tensors of another dtype; None leaves them."""
    if dtype is None:
        return settle(inputs)
    return settle(map_tensors(inputs, lambda tensor: _converted(tensor, dtype)))


def spread(shape: Iterable[int], dtype: torch.dtype = torch.float32, high: int | None = None) -> Tensor:
    """A tensor that a description gives back exactly.

    Args:
        shape: the whole shape, batch included.
        dtype: any ordinary dtype.
        high: integers run from 0 to high - 1, floats from 0 to high; None leaves floats at unit variance.
    """
    record: dict[str, Any] = {"shape": list(shape), "dtype": _name(dtype)}
    if high is not None:
        record |= {"low": 0, "high": high}
    return settle(make(record))


def example_of(batch: Any) -> Any:
    """An example from a batch of data: its first one, floats replaced by the same spread everywhere.

    Args:
        batch: inputs as the model gets them; a tensor, or mappings, tuples and lists of tensors.
    Raises:
        InputError: if there is anything but dense tensors of ordinary dtypes.
    """
    first = settle(one_of_batch(batch))
    return map_tensors(first, lambda x: spread(x.shape, x.dtype) if x.is_floating_point() else x)


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point() or tensor.dtype == dtype:
        return tensor
    record = describe(tensor)
    return tensor.to(dtype) if {"values", "low"} & record.keys() else make({**record, "dtype": _name(dtype)})


def _parse_one(form: str, floating: torch.dtype) -> tuple[str | None, Tensor]:
    match = _FORM.match(form.replace(" ", ""))
    if not match or (match["shape"] is None and not match["dtype"]):
        raise InputError(
            f"input {form!r}: write [NAME=]D,D,...[:DTYPE[:HIGH]], e.g. 3,224,224 or ids=16:int64:1000 "
            "or user=:int64:500 for one number an example"
        )
    if match["dtype"] and match["dtype"] not in _DTYPES:
        raise InputError(f"input {form!r}: unknown dtype {match['dtype']!r}{nearest(match['dtype'], _DTYPES)}")
    dtype = _DTYPES[match["dtype"]] if match["dtype"] else floating
    high = int(match["high"]) if match["high"] else None
    if high is not None:
        _check_high(form, dtype, high)
    shape = [1, *(int(size) for size in (match["shape"] or "").split(",") if size)]
    if math.prod(shape) > _LARGEST:
        raise InputError(f"input {form!r}: {math.prod(shape):,} elements an example are more than {_LARGEST:,}")
    return match["name"], spread(shape, dtype, high)


def _check_high(form: str, dtype: torch.dtype, high: int) -> None:
    if dtype == torch.bool or dtype.is_complex:
        raise InputError(f"input {form!r}: {_name(dtype)} takes no HIGH; leave it out")
    largest = int(torch.finfo(dtype).max) if dtype.is_floating_point else torch.iinfo(dtype).max + 1
    if not 1 <= high <= largest:
        raise InputError(f"input {form!r}: HIGH of {_name(dtype)} is from 1 to {largest}, got {high}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _describe_tensor(tensor: Tensor) -> dict[str, Any]:
    if _name(tensor.dtype) not in _DTYPES or tensor.layout != torch.strided:
        raise InputError(
            f"an example input of dtype {_name(tensor.dtype)} and layout {tensor.layout} cannot be written down; "
            f"give dense tensors of {', '.join(_DTYPES)}"
        )
    record: dict[str, Any] = {"shape": list(tensor.shape), "dtype": _name(tensor.dtype)}
    candidates = [record] if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool else []
    if not tensor.is_complex() and tensor.dtype != torch.bool:
        candidates += _ranges(tensor, record)
    for candidate in candidates:
        if _same(make(candidate), tensor):
            return candidate
    if tensor.numel() <= LARGEST_BY_VALUE:
        return {**record, "values": _values_of(tensor)}
    return candidates[-1]


def _ranges(tensor: Tensor, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Records of the values' range, the one of earlier manifests first."""
    if tensor.is_floating_point():
        finite = tensor.double()[torch.isfinite(tensor)]
        low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
        return [{**record, "low": low, "high": high}]
    values = tensor.numpy()  # torch has no minimum of uint16 and uint32
    low, high = (int(values.min()), int(values.max()) + 1) if values.size else (0, 1)
    return [{**record, "high": high}, {**record, "low": low, "high": high}]


def _values_of(tensor: Tensor) -> list[Any]:
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    values = tensor.reshape(-1).tolist()
    if not tensor.is_floating_point():
        return values
    return [value if math.isfinite(value) else str(value) for value in values]  # JSON has no inf and nan


def _make_tensor(record: Mapping[str, Any], batch: int | None) -> Tensor:
    dtype = _DTYPES[record["dtype"]]
    stored = [int(size) for size in record["shape"]]
    shape = [batch if batch and axis == 0 else size for axis, size in enumerate(stored)]
    if min(shape, default=0) < 0 or math.prod(shape) > _LARGEST:
        raise ValueError(f"no shape of an example: {shape}")
    if "values" in record:
        return _by_value(record["values"], stored, shape, dtype)
    low, high = record.get("low"), record.get("high")
    count = math.prod(shape)
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype)
    if dtype.is_complex:
        pairs = _make_tensor({"shape": [*shape, 2], "dtype": "float64"}, None)
        return torch.view_as_complex(pairs).to(dtype)
    if not dtype.is_floating_point:
        return _integers(count, low, high).to(dtype).reshape(shape)
    # (0, 1), evenly spread whatever the count: multiples of the golden ratio
    parts = ((torch.arange(count, dtype=torch.float64) + 1) * _GOLDEN) % 1.0
    values = (parts - 0.5) * 12**0.5 if low is None or high is None else _within(parts, float(low), float(high))
    return values.to(dtype).reshape(shape)


def _integers(count: int, low: int | None, high: int | None) -> Tensor:
    if low is None or high is None:  # records of the first manifests
        return (torch.arange(count, dtype=torch.float64) * _STRIDE) % float(max(high or 2, 1))
    span = min(max(int(high) - int(low), 1), 2**62)
    values = (torch.arange(count, dtype=torch.int64) * _STRIDE) % span + int(low)
    if count:
        values[-1] = int(high) - 1  # so that the range is found in the values
    return values


def _within(parts: Tensor, low: float, high: float) -> Tensor:
    """Parts of the unit interval stretched so that the smallest is `low` and the largest `high`, exactly."""
    if not parts.numel():
        return parts
    width = parts.max() - parts.min()
    parts = (parts - parts.min()) / width if width > 0 else torch.ones_like(parts)
    return torch.where(parts < 0.5, low + parts * (high - low), high - (1 - parts) * (high - low))


def _by_value(values: list[Any], stored: list[int], shape: list[int], dtype: torch.dtype) -> Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        numbers = torch.tensor([float(value) for value in values], dtype=torch.float64)
        whole = torch.view_as_complex(numbers.reshape(*stored, 2)) if dtype.is_complex else numbers.reshape(stored)
        whole = whole.to(dtype)
    else:
        whole = torch.tensor(values, dtype=dtype).reshape(stored)
    if shape == stored:
        return whole
    return whole[torch.arange(shape[0]) % stored[0]] if stored[0] else whole.new_zeros(shape)


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one shape and dtype are equal bit for bit."""
    return torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)))
