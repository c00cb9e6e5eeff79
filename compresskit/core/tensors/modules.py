"""Addressing submodules and tensors by dotted name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, nearest


def get_module(root: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted path; '' is the root.

    Raises:
        InputError: naming the nearest existing path.
    """
    try:
        return root.get_submodule(path)
    except AttributeError:
        names = [name for name, _ in root.named_modules() if name]
        raise InputError(f"no layer named {path!r} in the model{nearest(path, names)}") from None


def tensor_of(module: nn.Module, name: str = "weight") -> Tensor:
    """A tensor of a module by its attribute: a parameter, a buffer, or what a property computes.

    Raises:
        TypeError: if the attribute is something else.
    """
    value = getattr(module, name)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} of {type(module).__name__} is a {type(value).__name__}, not a tensor")
    return value


def bias_of(module: nn.Module) -> Tensor | None:
    """A layer's bias; None where it has none."""
    return None if getattr(module, "bias", None) is None else tensor_of(module, "bias")


def set_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in the place of the submodule at a dotted path."""
    parent_path, _, name = path.rpartition(".")
    parent = get_module(root, parent_path)
    if name not in parent._modules:
        raise InputError(f"no layer named {path!r} in the model{nearest(name, list(parent._modules))}")
    parent._modules[name] = module


def eager_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by path that Python runs, the root included; scripted ones take no hooks and are left out."""
    return ((path, module) for path, module in root.named_modules() if not isinstance(module, torch.jit.ScriptModule))


def match_names(patterns: Iterable[str], names: Iterable[str], what: str = "layer") -> list[str]:
    """Names that any of the shell-style patterns matches, in the order of `names`.

    Raises:
        InputError: if a pattern matches nothing, naming the nearest name.
    """
    names = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"no {what} matches {pattern!r}{nearest(pattern, names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Modules in eval mode inside; each of their layers is in its own mode again afterwards."""
    layers = [layer for module in modules for layer in module.modules()]
    modes = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.training = False
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


def unfilled(
    kind: type[nn.Module], *arguments: Any, device: torch.device, dtype: torch.dtype, **named: Any
) -> nn.Module:
    """A layer whose parameters are not initialized, which draws no random number.

    What `torch.nn.utils.skip_init` gives, without sympy, which that loads and which takes half a second.
    """
    layer = kind(*arguments, device="meta", dtype=dtype, **named)
    for name, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, nn.Parameter(torch.empty(parameter.shape, device=device, dtype=dtype)))
    return layer
