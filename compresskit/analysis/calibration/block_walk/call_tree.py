"""Which modules called which others while a model ran once, and how their tensors passed between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ....core.tensors.dispatch import inside_vmap
from ....core.tensors.modules import eager_modules, evaluating
from ....core.types import Inputs, call
from ..hooks import SUMS

#: a tensor as it was at one time: (id, version)
State = tuple[int, int]


@dataclass
class ModuleCall:
    """One call of a module.

    Attributes:
        name: of the module.
        calls: of other modules, made from within this one, in order.
        enters: the only tensor that it was given; None if it was given several, or anything else.
        leaves: the tensor that it returned, likewise.
        shapes: of the tensors that it was given, and of those that it returned.
        mutates: whether it changed in place what it was given.
        fleeting: whether anyone changed in place what it was given or what it returned before the run ended.
        adds: whether its own forward added two tensors that are no parameters.
        reads: ids of the parameters that its own forward handed to functions.
    """

    name: str
    calls: list[ModuleCall] = field(default_factory=list)
    enters: State | None = None
    leaves: State | None = None
    shapes: tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]] = ((), ())
    mutates: bool = False
    fleeting: bool = False
    adds: bool = False
    reads: set[int] = field(default_factory=set)

    def walk(self) -> Iterator[ModuleCall]:
        """This call and all that were made from within it, in the order in which they began."""
        yield self
        for one in self.calls:
            yield from one.walk()


class _Functions(TorchFunctionMode):
    """While open, notes in the innermost call under way which parameters functions read, and additions."""

    def __init__(self, stack: list[ModuleCall]):
        super().__init__()
        self._stack = stack

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if self._stack:
            tensors = _tensors((args, kwargs))
            self._stack[-1].reads |= {id(one) for one in tensors if isinstance(one, nn.Parameter)}
            if func in SUMS and len(tensors) == 2:
                self._stack[-1].adds |= all(one.dim() > 1 and not isinstance(one, nn.Parameter) for one in tensors)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def record_calls(root: nn.Module, inputs: Inputs) -> ModuleCall:
    """The call of a model on one batch of inputs in eval mode, with all calls of modules within it."""
    stack: list[ModuleCall] = []
    begun: list[dict[int, int]] = []  # versions of the tensors given to the calls under way
    passed: list[tuple[ModuleCall, list[tuple[Tensor, int]]]] = []  # held, so that ids stay their own
    first: list[ModuleCall] = []

    def enter(name: str):
        def hook(_module: nn.Module, given: tuple, named: dict) -> None:
            if inside_vmap():  # no run can be halted there: what calls them is the smallest that is recorded
                return
            made, tensors = ModuleCall(name), _tensors((given, named))
            made.enters = _state(given[0]) if len(given) == 1 and not named and isinstance(given[0], Tensor) else None
            made.shapes = _shapes(tensors), ()
            (stack[-1].calls if stack else first).append(made)
            stack.append(made)
            begun.append({id(one): one._version for one in tensors})
            passed.append((made, [(one, one._version) for one in tensors]))

        return hook

    def leave(_module: nn.Module, given: tuple, named: dict, output: Any) -> None:
        if inside_vmap():
            return
        made, versions = stack.pop(), begun.pop()
        made.mutates = any(versions.get(id(one), one._version) != one._version for one in _tensors((given, named)))
        made.leaves = _state(output) if isinstance(output, Tensor) else None
        made.shapes = made.shapes[0], _shapes(_tensors(output))
        passed.append((made, [(one, one._version) for one in _tensors(output)]))

    with ExitStack() as hooks, evaluating(root):
        for name, module in eager_modules(root):
            hooks.callback(module.register_forward_pre_hook(enter(name), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
        with _Functions(stack):
            call(root, inputs)
    for made, tensors in passed:
        made.fleeting |= any(one._version != version for one, version in tensors)
    return first[0]


def call_counts(root_call: ModuleCall) -> Counter[str]:
    """How often each module was called, by name."""
    return Counter(one.name for one in root_call.walk())


def _tensors(structure: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(structure) if isinstance(leaf, Tensor)]


def _state(tensor: Tensor) -> State:
    return id(tensor), tensor._version


def _shapes(tensors: list[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(one.shape) for one in tensors)
