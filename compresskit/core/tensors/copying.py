"""Copies of modules that own everything their forward touches.

`copy.deepcopy` shares functions. A hook, or an activation stored as a lambda, that refers to its own module would
therefore keep reading and writing the original from inside the copy. It also stops at locks, open files, generators
and tensors that still hang on a graph, which training code leaves in attributes.
"""

from __future__ import annotations

import copy
import types
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError


def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy of a module, functions that refer to its parts rebound to the copy's parts.

    What cannot be copied (locks, files, connections) is shared with the original.

    Raises:
        InputError: if the module cannot be copied at all.
    """
    memo: dict[int, Any] = {}
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:
        memo = _shared(module)
        try:
            copied = copy.deepcopy(module, memo)
        except Exception:
            raise InputError(f"the model cannot be copied ({type(error).__name__}: {error})") from error
    for own in list(module.modules()):
        other = memo.get(id(own), own)
        if other is not own and not isinstance(own, torch.jit.ScriptModule):
            _rebind_all(vars(own), vars(other), memo)
    for parameter in copied.parameters():
        if not parameter.is_leaf:  # scripted modules copy theirs on the graph, where no gradient arrives
            parameter.detach_().requires_grad_(True)
    return copied


def copy_structure(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters of two dimensions or more are the module's own, until one of them replaces
    its."""
    memo: dict[int, Any] = {id(one): one for one in module.parameters() if one.dim() > 1}
    return copy.deepcopy(module, memo)


def _shared(module: nn.Module) -> dict[int, Any]:
    """A memo for deepcopy in which attributes that it cannot copy stand for themselves, tensors on a graph detached."""
    memo: dict[int, Any] = {}
    kept: list[Any] = []  # ids in a memo must stay those of living objects
    for owner in module.modules():
        for value in vars(owner).values():
            for item in value.values() if isinstance(value, dict) else [value]:
                if isinstance(item, nn.Module) or id(item) in memo:
                    continue
                if isinstance(item, Tensor) and not item.is_leaf:
                    memo[id(item)] = item.detach().clone()
                elif not isinstance(item, Tensor) and not _copies(item):
                    memo[id(item)] = item
                kept.append(item)
    memo[id(memo)] = kept
    return memo


def _copies(value: Any) -> bool:
    if isinstance(value, nn.Module | str | int | float | types.FunctionType):
        return True
    try:
        copy.deepcopy(value)
    except Exception:  # whatever it is, it is shared then
        return False
    return True


def _rebind_all(own: dict[Any, Any], other: dict[Any, Any], memo: dict[int, Any]) -> None:
    """Rebind functions in a copied mapping, and in the mappings and lists inside it that were copied too."""
    for name, value in list(other.items()):
        if isinstance(value, types.FunctionType | types.MethodType):
            other[name] = _copied(value, memo)
        elif isinstance(value, dict) and isinstance(own.get(name), dict) and value is not own[name]:
            _rebind_all(own[name], value, memo)
        elif isinstance(value, list) and value is not own.get(name):
            value[:] = [_copied(item, memo) if isinstance(item, types.FunctionType) else item for item in value]


def _rebound(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """The function with every closed-over and default value that was copied replaced by its copy."""
    cells = function.__closure__ or ()
    new_cells = tuple(types.CellType() for _ in cells)
    new = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, new_cells or None)
    memo[id(function)] = new  # before its cells: a function may refer to itself
    changed = False
    for cell, old in zip(new_cells, cells, strict=True):
        if is_filled(old):
            cell.cell_contents = _copied(old.cell_contents, memo)
            changed |= cell.cell_contents is not old.cell_contents
    defaults = tuple(_copied(value, memo) for value in function.__defaults__ or ())
    own_named = function.__kwdefaults__ or {}
    named = {name: _copied(value, memo) for name, value in own_named.items()}
    changed |= any(one is not other for one, other in zip(defaults, function.__defaults__ or (), strict=True))
    changed |= any(value is not own_named[name] for name, value in named.items())
    if not changed:
        memo[id(function)] = function
        return function
    new.__defaults__, new.__kwdefaults__ = defaults or None, named or None
    new.__dict__.update(function.__dict__)
    return new


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """What stands for a value in the copy: the value itself unless it is, or refers to, a copied part."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, types.FunctionType):
        return _rebound(value, memo)
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, memo[id(value.__self__)]) if id(value.__self__) in memo else value
    if isinstance(value, list | tuple | dict):
        items = value.values() if isinstance(value, dict) else value
        if any(id(item) in memo and isinstance(item, nn.Module | Tensor) for item in items):
            return copy.deepcopy(value, memo)
    return value


def is_filled(cell: types.CellType) -> bool:
    """Whether a closure's cell holds a value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
