"""A module's whole state: every parameter and buffer once, what is tied, and how it goes into another module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..core.errors import InputError
from ..core.tensors.modules import get_module


@dataclass(frozen=True)
class ModuleState:
    """Everything that a module holds in parameters and buffers.

    Attributes:
        tensors: name -> tensor, each tensor once, on the CPU.
        tied: other name -> the name in `tensors` that holds the same tensor.
        non_persistent: names of buffers that are not in the state dict.
        unset: names of buffers that are registered and hold None.
    """

    tensors: Mapping[str, Tensor]
    tied: Mapping[str, str] = field(default_factory=dict)
    non_persistent: list[str] = field(default_factory=list)
    unset: list[str] = field(default_factory=list)


def state_of(module: nn.Module) -> ModuleState:
    """A copy of a module's state on the CPU."""
    persistent = set(module.state_dict())
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    kept: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    for name, tensor in named:
        if id(tensor) in kept:
            ties[name] = kept[id(tensor)]
            continue
        kept[id(tensor)] = name
        tensors[name] = tensor.detach().cpu().contiguous().clone()
    hidden = [name for name in tensors if name not in persistent]
    unset = [name for name, owner, leaf in _buffers(module) if _slot(owner, leaf) is None]
    return ModuleState(tensors, ties, hidden, unset)


def unique_tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Every tensor once, the ties (other name -> kept name), and the names of non-persistent buffers."""
    state = state_of(module)
    return dict(state.tensors), dict(state.tied), state.non_persistent


def fill(module: nn.Module, state: ModuleState, where: str) -> None:
    """Put a state into a module, strictly, and tie what was tied.

    Buffers that are registered but unset, and non-persistent ones of any shape (caches that forward makes), are
    set as the state says.

    Raises:
        InputError: on missing, unexpected or misshapen tensors.
    """
    for name in state.unset:
        owner, leaf = _owner(module, name)
        owner._buffers[leaf] = None
    hidden = set(state.non_persistent)
    expected = {name: (owner, leaf) for name, owner, leaf in _slots(module)}
    open_slots = {name: (owner, leaf) for name, owner, leaf in _buffers(module)}
    for name in [*state.tensors, *state.tied]:
        if name not in expected and name in open_slots:
            expected[name] = open_slots[name]
        elif name not in expected and name in hidden:
            owner, leaf = _owner(module, name)
            owner.register_buffer(leaf, None, persistent=False)
            expected[name] = (owner, leaf)
    missing = sorted(set(expected) - set(state.tensors) - set(state.tied))
    unexpected = sorted(set(state.tensors) - set(expected))
    if missing or unexpected:
        raise InputError(f"{where}: missing tensors {missing[:3]}, unexpected tensors {unexpected[:3]}")
    filled: dict[str, Any] = {}
    for name, (owner, leaf) in expected.items():
        kept = state.tied.get(name, name)
        value = state.tensors[kept].clone()  # aligned memory: kernels then match bit for bit
        old = _slot(owner, leaf)
        if old is not None and old.shape != value.shape and name not in hidden:
            raise InputError(f"{where}: {name} has shape {list(value.shape)}, the edits say {list(old.shape)}")
        if isinstance(old, nn.Parameter):
            value = nn.Parameter(value, old.requires_grad and (value.is_floating_point() or value.is_complex()))
        if kept in filled and isinstance(filled[kept], nn.Parameter) == isinstance(value, nn.Parameter):
            value = filled[kept]
        setattr(owner, leaf, value)  # recurrent layers keep a list of their weights, which setattr updates
        filled.setdefault(kept, value)


def _slots(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(full name, owning module, leaf name) of every parameter and buffer that is set, persistent or not."""
    for path, owner in module.named_modules():
        for leaf in [*owner._parameters.keys(), *owner._buffers.keys()]:
            if _slot(owner, leaf) is not None:
                yield (f"{path}.{leaf}" if path else leaf), owner, leaf


def _buffers(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(full name, owning module, leaf name) of every registered buffer, set or not."""
    for path, owner in module.named_modules():
        for leaf in owner._buffers.keys():  # noqa: SIM118 - scripted modules have no real dictionaries
            yield (f"{path}.{leaf}" if path else leaf), owner, leaf


def _slot(owner: nn.Module, leaf: str) -> Tensor | None:
    return owner._parameters[leaf] if leaf in owner._parameters else owner._buffers[leaf]


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return get_module(module, path), leaf
