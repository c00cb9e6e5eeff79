"""Integers that remember where they came from.

While a model is traced, its modules' integer attributes and the sizes of its activations are `Number`s: ordinary
ints that carry an expression (`C // self.num_heads`). Where such a number reaches an operation that fixes a shape, the
expression says which attribute has to change when channels go, and to what.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

#: ("const", value), ("attr", key), ("size", Axis) or (operator name, left, right)
Expr = tuple


@dataclass(frozen=True, eq=False)
class Axis:
    """The ids along one dimension of an activation; one (rows, size) array for each plane that changes along it.

    A position along the dimension stays while, in every plane, any of its rows stays.
    """

    planes: tuple[np.ndarray, ...]
    size: int
    owner: object = None  # the trace it belongs to

    def kept(self, keep: np.ndarray) -> int:
        """How many positions stay; keep[id] says whether an id stays."""
        if not self.planes:
            return self.size
        return int(self.mask(keep).sum())

    def mask(self, keep: np.ndarray) -> np.ndarray:
        """Which positions stay, (size,) bool."""
        mask = np.ones(self.size, dtype=bool)
        for plane in self.planes:
            mask &= keep[plane].any(axis=0)
        return mask


class AttributeKey(NamedTuple):
    """An integer attribute of a module; `entry` is the position where the attribute is a tuple of integers."""

    path: str
    name: str
    entry: int | None = None


_OPERATORS: dict[str, Callable] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "truediv": operator.truediv,
}


class Number(int):
    """An int with the expression that made it."""

    expr: Expr

    def __new__(cls, value: int, expr: Expr) -> Number:
        number = super().__new__(cls, value)
        number.expr = expr
        return number

    def __deepcopy__(self, memo: dict) -> int:
        return int(self)

    def __reduce__(self):
        return int, (int(self),)

    def __eq__(self, other: object) -> bool:
        """Equality; where it holds for the size of an activation, the run notes that it must hold."""
        same = int.__eq__(self, other)
        if same is True and type(other) in (int, Number):
            _note_equal(self.expr, expression(other))
        return same

    def __ne__(self, other: object) -> bool:
        same = self.__eq__(other)
        return same if same is NotImplemented else not same

    __hash__ = int.__hash__

    def __neg__(self) -> Number:
        return Number(-int(self), ("sub", ("const", 0), self.expr))


def expression(value: Any) -> Expr:
    """The expression of an int; a plain one is a constant."""
    return value.expr if isinstance(value, Number) else ("const", int(value))


def _note_equal(left: Expr, right: Expr) -> None:
    if right[0] == "size" and left[0] != "size":
        left, right = right, left
    if left[0] == "size" and left[1].owner is not None:
        left[1].owner.compared(left[1], right)


def _binary(name: str, reflected: bool) -> Callable:
    function = _OPERATORS[name]

    def apply(self: Number, other: Any) -> Any:
        if not isinstance(other, int) or isinstance(other, bool):
            plain = int(self)
            return function(other, plain) if reflected else function(plain, other)
        left, right = (other, self) if reflected else (self, other)
        result = function(int(left), int(right))
        if not isinstance(result, int):
            return result
        return Number(result, (name, expression(left), expression(right)))

    return apply


for _name in _OPERATORS:
    setattr(Number, f"__{_name}__", _binary(_name, reflected=False))
    setattr(Number, f"__r{_name}__", _binary(_name, reflected=True))


def evaluate(expr: Expr, attributes: Mapping[AttributeKey, int], keep: np.ndarray) -> int:
    """The value of an expression for given attributes and kept sizes."""
    kind = expr[0]
    if kind == "const":
        return expr[1]
    if kind == "attr":
        return attributes[expr[1]]
    if kind == "size":
        return expr[1].kept(keep)
    return _OPERATORS[kind](evaluate(expr[1], attributes, keep), evaluate(expr[2], attributes, keep))


def leaves(expr: Expr, kind: str) -> list:
    """The attribute keys ("attr") or axes ("size") an expression reads, in order, without repeats."""
    if expr[0] == kind:
        return [expr[1]]
    if expr[0] in ("const", "attr", "size"):
        return []
    found = leaves(expr[1], kind)
    return found + [leaf for leaf in leaves(expr[2], kind) if leaf not in found]


class attribute_numbers:
    """While open, the integer attributes of a model's modules are Numbers."""

    def __init__(self, root: nn.Module):
        self.root = root
        self.values: dict[AttributeKey, int] = {}
        self._restore: list[tuple[nn.Module, str, Any]] = []

    def __enter__(self) -> attribute_numbers:
        for path, module in self.root.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # its numbers are constants
            for name, value in vars(module).items():
                if type(value) is int:
                    module.__dict__[name] = self._number(AttributeKey(path, name), value)
                elif type(value) in (tuple, list) and value and all(type(item) is int for item in value):
                    module.__dict__[name] = type(value)(
                        self._number(AttributeKey(path, name, index), item) for index, item in enumerate(value)
                    )
                else:
                    continue
                self._restore.append((module, name, value))
        return self

    def __exit__(self, *_: Any) -> None:
        for module, name, value in self._restore:
            module.__dict__[name] = value

    def _number(self, key: AttributeKey, value: int) -> Number:
        self.values[key] = value
        return Number(value, ("attr", key))


def size_numbers(shape: torch.Size, axes: Mapping[int, Axis]) -> torch.Size:
    """A shape whose entries are Numbers wherever channels stand along the dimension."""
    return torch.Size([Number(size, ("size", axes[d])) if d in axes else size for d, size in enumerate(shape)])
