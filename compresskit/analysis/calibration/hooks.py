"""Watching layers while data runs through a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ...core.tensors.dispatch import inside_vmap, unfused, without_vmap
from ...core.tensors.modules import eager_modules, evaluating, get_module
from ...core.types import Inputs, call, to_device

#: (layer, inputs, output) -> None; inputs given by name follow those given by position
Watcher = Callable[[nn.Module, tuple, Any], Any]
#: (layer name, positional inputs, named inputs, output) -> None
CallWatcher = Callable[[str, tuple, dict[str, Any], Any], None]


class Reached(Exception):
    """Raised by a watcher to end a forward pass at the layer that was waited for."""


def _examples(seen: Any) -> Any:
    """What a layer took and gave, as all the examples where `torch.vmap` shows it one."""
    return tree_map_only(Tensor, without_vmap, seen) if inside_vmap() else seen


@contextmanager
def watch(root: nn.Module, watchers: Mapping[str, Watcher]) -> Iterator[None]:
    """Call each named layer's watcher after every forward of that layer, while the context is open.

    What a watcher returns takes the output's place, unless it is None.
    """
    with ExitStack() as stack, unfused():
        for name, watcher in watchers.items():

            def look(layer: nn.Module, given: tuple, named: dict, output: Any, watcher: Watcher = watcher) -> Any:
                given, named, output = _examples((given, named, output))
                return watcher(layer, (*given, *named.values()), output)

            stack.callback(get_module(root, name).register_forward_hook(look, with_kwargs=True).remove)
        yield


@contextmanager
def watch_calls(root: nn.Module, look: CallWatcher, names: Iterable[str] | None = None) -> Iterator[None]:
    """Show every call of a model's layers to a function, in the order in which they finish, while the context is open.

    Args:
        root: the model.
        look: what sees the calls.
        names: the layers; None for all that Python runs, the root included.
    """
    layers = eager_modules(root) if names is None else ((name, get_module(root, name)) for name in names)
    with ExitStack() as stack, unfused():
        for name, layer in layers:

            def tell(_layer: nn.Module, given: tuple, named: dict, output: Any, name: str = name) -> None:
                look(name, *_examples((given, named, output)))

            stack.callback(layer.register_forward_hook(tell, with_kwargs=True).remove)
        yield


@torch.no_grad()
def run_watched(root: nn.Module, inputs: Inputs, look: CallWatcher, names: Iterable[str] | None = None) -> Any:
    """Run a model once, in the modes that its layers are in, under `watch_calls`; returns what the model returns."""
    with watch_calls(root, look, names):
        return call(root, inputs)


@torch.no_grad()
def stream(
    root: nn.Module, batches: Iterable[Inputs], watchers: Mapping[str, Watcher], device: torch.device | None = None
) -> None:
    """Run batches of inputs through a model in eval mode, feeding the watchers; keeps nothing itself."""
    with evaluating(root), watch(root, watchers):
        for inputs in batches:
            call(root, to_device(inputs, device) if device else inputs)


#: functions that add two tensors
SUMS = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__)


class Sums(TorchFunctionMode):
    """While open, tells what is added to the tensors that wait in it, such as the shortcut of a residual branch."""

    def __init__(self):
        super().__init__()
        self._waiting: dict[int, tuple[Tensor, int, Callable[[Tensor, Tensor], None]]] = {}

    def wait(self, tensor: Tensor, look: Callable[[Tensor, Tensor], None]) -> None:
        """Call `look` with this tensor and the other operand, before it is added to one of the same shape.

        A tensor that was changed in place until then is no longer what was waited for.
        """
        self._waiting[id(tensor)] = tensor, tensor._version, look  # held, so that its id stays its own

    def pass_on(self, tensor: Tensor, successor: Tensor) -> None:
        """Wait for another tensor, made from this one, in its place."""
        if id(tensor) in self._waiting:
            self.wait(successor, self._waiting.pop(id(tensor))[2])

    def forget(self) -> None:
        """Stop waiting for all."""
        self._waiting.clear()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in SUMS and self._waiting and len(args) == 2 and all(isinstance(one, Tensor) for one in args):
            for one, other in (args, args[::-1]):
                if id(one) in self._waiting and one.shape == other.shape:
                    tensor, version, look = self._waiting.pop(id(one))
                    if tensor._version == version:
                        look(tensor, other)
        return func(*args, **(kwargs or {}))
