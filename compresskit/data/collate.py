"""Collate functions: a list of examples -> a batch, and what of a batch are inputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from ..core.errors import InputError
from ..core.tensors.batches import TARGETS
from .tables import COLLATES

Pair = tuple[Any, Any]
Function = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Collate:
    """Turns a list of examples into (inputs, targets), both batches as `core.tensors.batches` has them.

    Attributes:
        function: a list of examples -> a batch.
        where: what errors call the data.
        listed: whether inputs, and whether targets, come as a sequence with one entry an example.
        input_name: what the data calls its only input; "" where it has several, or no names.
    """

    function: Function
    where: str
    listed: tuple[bool, bool] = (False, False)
    input_name: str = ""

    def __call__(self, examples: list[Any]) -> Pair:
        return pair_of(self.function(examples), self.where, self.listed)

    @classmethod
    def fitting(cls, function: Function | None, first: list[Any], where: str) -> Collate:
        """The collate function for data that begins with these one or two examples.

        What grows with the number of examples is a sequence of them; what does not is a sequence of columns.

        Args:
            function: the user's; None takes the one that fits (`auto`).
            first: the data's first examples.
            where: what errors call the data.
        """
        function = function or _fitting(first, where)
        if function is as_list:
            return cls(function, where, (True, True), input_name(first[0]))
        made = [function(first[:count]) for count in range(1, min(len(first), 2) + 1)]
        batches = [divided_batch(batch, where) for batch in made]
        inputs, targets = (_is_listed([batch[side] for batch in batches]) for side in (0, 1))
        return cls(function, where, (inputs, targets), input_name(made[0]) or input_name(first[0]))


def make_collate(name: str) -> Function | None:
    """The collate function of a name: a row of COLLATES or the user's own; None for `auto`.

    Raises:
        InputError: naming the nearest valid name.
    """
    if name == "auto":
        return None
    try:
        return COLLATES.load(name)
    except ValueError as error:
        raise InputError(str(error)) from error


def auto(examples: list[Any]) -> Any:
    """`list` for boxes and for examples that differ in shape, else `stack`; decided by the examples at hand."""
    return _fitting(examples, "")(examples)


def as_list(examples: list[Any]) -> Pair:
    """A list of inputs and a list of targets, nothing stacked."""
    pairs = [divided_batch(example, "") for example in examples]
    targets = [target for _, target in pairs]
    return [inputs for inputs, _ in pairs], None if _are_missing(targets) else targets


def stack(examples: list[Any]) -> Pair:
    """torch's own way; targets that are boxes stay a list."""
    pairs = [divided_batch(example, "") for example in examples]
    targets = [target for _, target in pairs]
    inputs = default_collate([inputs for inputs, _ in pairs])
    if _are_missing(targets):
        return inputs, None
    return inputs, targets if _has_boxes(targets[0]) else default_collate(targets)


def pad(examples: list[Any]) -> Pair:
    """`stack` after tensors were filled up to the longest of each dimension: with 0, whole-number targets with -100."""
    pairs = [divided_batch(example, "") for example in examples]
    inputs = _padded([inputs for inputs, _ in pairs], 0)
    targets = [targets for _, targets in pairs]
    return default_collate(inputs), None if _are_missing(targets) else default_collate(_padded(targets, -100))


def _are_missing(targets: list[Any]) -> bool:
    return all(target is None for target in targets)


def pair_of(batch: Any, where: str, listed: tuple[bool, bool] | None = None) -> Pair:
    """(inputs, targets) of a batch, float64 inputs as float32, whole-number targets as int64.

    Args:
        batch: (inputs, targets), (input, ..., targets), a mapping, whose targets have a key of TARGETS, or inputs
            alone: a tensor, a tuple of one, or a mapping.
        where: what errors call the data.
        listed: whether inputs, and whether targets, are sequences with one entry an example; None tells it from the
            batch alone: where tensors do not agree in their first dimension, they are examples of several sizes.
    Returns:
        inputs: a tensor, a tuple (given to forward by position) or a mapping (by name); images of several sizes are
            a tuple of one list, which forward gets as one argument. targets: a tensor, a mapping, a tuple, or a list.
    Raises:
        InputError: if it is no batch of inputs and targets.
    """
    inputs, targets = divided_batch(batch, where)
    one, other = listed or (_looks_listed(inputs, targets), _looks_listed(targets, inputs))
    if (isinstance(targets, Tensor) and targets.dim() == 0) or isinstance(targets, int | float | str):
        kind = "a single number" if isinstance(targets, Tensor) else f"of type {type(targets).__name__}"
        raise InputError(f"data {where}: the targets of a batch are {kind}; give a tensor with one entry an example")
    inputs = ([_input(entry) for entry in inputs],) if one else _input(inputs)
    if targets is None:
        return inputs, None
    return inputs, _listed_targets(targets) if other else _target(targets)


def _by_name(batch: Any) -> tuple[Any, str | None]:
    """A dataclass as a mapping, all else as it is; and the key of a mapping's targets."""
    if is_dataclass(batch) and not isinstance(batch, Mapping | type):
        batch = {field.name: getattr(batch, field.name) for field in fields(batch)}
    if not isinstance(batch, Mapping):
        return batch, None
    return batch, next((name for name in TARGETS if name in batch), None)


def divided_batch(batch: Any, where: str) -> Pair:
    """What of a batch, or of an example, are inputs and what are targets; None where it holds inputs alone.

    Raises:
        InputError: if it has no two parts.
    """
    batch, key = _by_name(batch)
    if isinstance(batch, Mapping):
        inputs = {name: value for name, value in batch.items() if name != key}
        if not inputs:
            raise InputError(f"data {where}: a batch holds {', '.join(map(str, batch)) or 'nothing'} and no inputs")
        # a lone input is passed by position: forward need not call it as the data does (`Data.name_input` for others)
        return next(iter(inputs.values())) if len(inputs) == 1 else inputs, None if key is None else batch[key]
    if isinstance(batch, Tensor | np.ndarray):
        return batch, None
    if isinstance(batch, tuple | list) and len(batch) == 1:
        return batch[0], None
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, tuple | list) and len(batch) > 2:
        return tuple(batch[:-1]), batch[-1]
    raise InputError(f"data {where}: a batch must be (inputs, targets), got {type(batch).__name__}")


def input_name(batch: Any) -> str:
    """The name of the only input of a batch, or of an example, that is a mapping or a dataclass; "" of any other."""
    batch, key = _by_name(batch)
    if not isinstance(batch, Mapping):
        return ""
    names = [name for name in batch if name != key]
    return names[0] if len(names) == 1 and isinstance(names[0], str) else ""


def _fitting(first: list[Any], where: str) -> Function:
    inputs, targets = zip(*(divided_batch(example, where) for example in first), strict=True)
    if _has_boxes(targets[0]):
        return as_list
    shapes = [[value.shape for value in _leaves((one, other))] for one, other in zip(inputs, targets, strict=True)]
    return as_list if any(shape != shapes[0] for shape in shapes) else default_collate


def _has_boxes(target: Any) -> bool:
    return isinstance(target, Mapping) and "boxes" in target


def _is_listed(sides: list[Any]) -> bool:
    """Whether a side of the batches of one and two examples has one entry an example."""
    if not all(isinstance(side, tuple | list) for side in sides):
        return False
    if len(sides) == 1:
        return len(sides[0]) == 1 and not isinstance(sides[0][0], Tensor)
    return [len(side) for side in sides] == [1, 2]


def _looks_listed(side: Any, other: Any) -> bool:
    if not isinstance(side, tuple | list) or not side:
        return False
    if all(isinstance(entry, Mapping | str | bytes) for entry in side):
        return True
    firsts = {len(leaf) if leaf.ndim else None for leaf in _leaves((side, other))}
    counted = len(other) if isinstance(other, tuple | list | Tensor | np.ndarray) else None
    return len(firsts) > 1 and counted == len(side)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Tensor | np.ndarray):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return [leaf for part in parts for leaf in _leaves(part)]


def _input(inputs: Any) -> Any:
    return _columns(inputs, lambda tensor: tensor.float() if tensor.dtype == torch.float64 else tensor)


def _target(targets: Any) -> Any:
    return _columns(targets, lambda tensor: tensor if tensor.is_floating_point() else tensor.long())


def _columns(value: Any, cast: Callable[[Tensor], Tensor]) -> Any:
    """A structure of columns, lists of them as tuples, each array a tensor of the type that it is cast to."""
    value = _tensors(value)
    if isinstance(value, Tensor):
        return cast(value)
    if isinstance(value, Mapping):
        return {name: _columns(column, cast) for name, column in value.items()}
    return tuple(_columns(column, cast) for column in value) if isinstance(value, tuple | list) else value


def _listed_targets(targets: Any) -> Any:
    """One entry an example; numbers are one tensor again."""
    entries = [_tensors(entry) for entry in targets]
    if all(isinstance(entry, bool | int | float) for entry in entries):
        return _target(torch.tensor(entries))
    if all(isinstance(entry, Tensor) and entry.dim() == 0 for entry in entries):
        return _target(torch.stack(entries))
    return entries


def _tensors(value: Any) -> Any:
    """Arrays of a structure as tensors; mappings as plain dicts."""
    if isinstance(value, np.ndarray | np.generic):
        return torch.as_tensor(value)
    if isinstance(value, Mapping):
        return {name: _tensors(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_tensors(entry) for entry in value) if type(value) in (tuple, list) else value
    return value


def _padded(values: list[Any], fill: int) -> list[Any]:
    first = values[0]
    if isinstance(first, np.ndarray):
        return _padded([torch.from_numpy(value) for value in values], fill)
    if isinstance(first, Mapping):
        columns = {name: _padded([value[name] for value in values], fill) for name in first}
        return [{name: column[number] for name, column in columns.items()} for number in range(len(values))]
    if isinstance(first, tuple | list):
        return list(zip(*(_padded(list(column), fill) for column in zip(*values, strict=True)), strict=True))
    if not isinstance(first, Tensor) or first.dim() == 0:
        return values
    longest = [max(value.shape[axis] for value in values) for axis in range(first.dim())]
    filling = 0 if first.is_floating_point() else fill
    return [
        F.pad(value, [n for axis in reversed(range(value.dim())) for n in (0, longest[axis] - value.shape[axis])],
              value=filling)
        for value in values
    ]  # fmt: skip
