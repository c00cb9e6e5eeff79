"""How data flows through a model, from one forward run on the example input.

`trace` tells which operation made a tensor and which ones read it, and which tensors each call of a module took and
gave. Operations are seen at the aten level by a dispatch mode, so nothing about the model has to be exportable.
A tensor is known by where it lies in memory and by how often that memory was written, so in-place operations make
new values and an identity module makes none.

`features` tells only which modules gave which shapes in which order; its run holds no tensors.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..core.tensors.dispatch import OperationMode, unfused, without_vmap
from ..core.tensors.dtypes import fit_inputs
from ..core.tensors.modules import eager_modules, evaluating, get_module
from ..core.types import Inputs, call, main_output
from .calibration.hooks import run_watched

#: one value of the computation: (storage, offset, shape, strides, writes so far)
Key = tuple


@dataclass(frozen=True)
class Node:
    """One aten operation: its name without overload ("convolution"), the module that ran it, what it read and made."""

    op: str
    module: str
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]


@dataclass(frozen=True)
class Call:
    """One call of a module: the tensors among its arguments and in what it returned.

    `takes_tensor` says whether its first argument is a tensor by itself, and no list of some.
    """

    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]
    takes_tensor: bool = True


@dataclass
class Trace:
    """A run of a model.

    Attributes:
        nodes: operations in order.
        calls: module name -> its calls in order; a module with several names goes by its first.
        outputs: what the model returned.
    """

    nodes: list[Node] = field(default_factory=list)
    calls: dict[str, list[Call]] = field(default_factory=lambda: defaultdict(list))
    outputs: tuple[Key, ...] = ()

    def __post_init__(self) -> None:
        self.consumers: dict[Key, list[Node]] = defaultdict(list)
        self.producer: dict[Key, Node] = {}

    def add(self, node: Node) -> None:
        """Append an operation."""
        self.nodes.append(node)
        for key in dict.fromkeys(node.inputs):
            self.consumers[key].append(node)
        for key in node.outputs:
            self.producer.setdefault(key, node)

    def only_reader(self, key: Key) -> Node | None:
        """The one operation that reads a value, if nothing else does and the model does not return it."""
        readers = self.consumers.get(key, [])
        return readers[0] if len(readers) == 1 and key not in self.outputs else None

    def inputs_of(self, name: str) -> tuple[tuple[Key, ...], ...]:
        """What a module read in each call; equal for layers that share their input, as queries, keys and values do."""
        return tuple(one.inputs for one in self.calls[name])

    def single_output(self, name: str) -> Key | None:
        """What a module called exactly once returned, if that is one tensor."""
        calls = self.calls.get(name, [])
        return calls[0].outputs[0] if len(calls) == 1 and len(calls[0].outputs) == 1 else None


def key_of(tensor: Tensor, writes: int = 0) -> Key:
    """The value a tensor holds now, or after `writes` more in-place writes."""
    tensor = without_vmap(tensor)
    if tensor.layout is not torch.strided or tensor.is_nested:  # it lies in several places
        return id(tensor), 0, tuple(tensor.shape) if not tensor.is_nested else (), (), tensor._version + writes
    return (
        tensor.untyped_storage()._cdata,
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
        tensor._version + writes,
    )


def shape_of(key: Key) -> tuple[int, ...]:
    """The shape of the tensor that held a value."""
    return key[2]


def _keys(tree: Any) -> tuple[Key, ...]:
    return tuple(key_of(leaf) for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _each_its_own(inputs: Inputs) -> Inputs:
    """Inputs in which no tensor stands twice: that one example gives the same for two says nothing of the data."""
    seen: set[int] = set()

    def own(tensor: Tensor) -> Tensor:
        twice = id(tensor) in seen
        seen.add(id(tensor))
        return tensor.clone() if twice else tensor

    return tree_map_only(Tensor, own, inputs)


class _Recorder(OperationMode):
    def __init__(self, trace: Trace, stack: list[str], kept: list[Any]):
        super().__init__()
        self.trace, self.stack, self.kept = trace, stack, kept

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = _keys((args, kwargs))
        result = func(*args, **kwargs)
        # the write is counted only after this returns
        writes = any(
            argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments
        )
        outputs = tuple(key_of(leaf, int(writes)) for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        # memory must not be given to another tensor while the trace lasts
        self.kept.append((args, kwargs, result))
        self.trace.add(Node(func.overloadpacket.__name__, self.stack[-1], inputs, outputs))
        return result


@torch.no_grad()
def trace(root: nn.Module, inputs: Inputs) -> Trace:
    """Run a model once in eval mode and record what happened.

    Args:
        root: the model.
        inputs: its example input; batch size 1 is enough.
    """
    record, stack, kept = Trace(), [""], []
    # before the run, whose operations are all the model's
    inputs = _each_its_own(fit_inputs(root, inputs))
    handles = []
    for name, module in eager_modules(root):

        def enter(_module, args, kwargs, name=name):
            stack.append(name)
            kept.append((args, kwargs))
            takes_tensor = bool(args) and isinstance(args[0], Tensor)
            record.calls[name].append(Call(_keys((args, kwargs)), (), takes_tensor))

        def leave(_module, _args, _kwargs, output, name=name):
            stack.pop()
            kept.append(output)
            record.calls[name][-1] = replace(record.calls[name][-1], outputs=_keys(output))

        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        with unfused(), evaluating(root), _Recorder(record, stack, kept):
            output = call(root, inputs)
        record.outputs = _keys(output)
    finally:
        for handle in handles:
            handle.remove()
    return record


@dataclass(frozen=True)
class Feature:
    """One module's output during a run.

    Attributes:
        name: dotted path of the module.
        shape: of its (first) output tensor.
    """

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Features:
    """What the modules of a model gave in one run.

    Attributes:
        each: outputs of all modules in the order in which they finished; a container comes after its children.
        classifier: path of the last linear layer that gave the logits, or None.
        output: the main output's shape.
    """

    each: tuple[Feature, ...]
    classifier: str | None
    output: tuple[int, ...]


def features(root: nn.Module, inputs: Inputs) -> Features:
    """Run a model once in eval mode and note what every module in it returned."""
    found: dict[str, Feature] = {}

    def note(name: str, _given: tuple, _named: dict[str, Any], output: Any) -> None:
        tensor = first_tensor(output)
        if name and tensor is not None:
            found.pop(name, None)  # a module that runs twice counts where it last finished
            found[name] = Feature(name, tuple(tensor.shape))

    with evaluating(root):
        shape = tuple(main_output(run_watched(root, inputs, note)).shape)
    linear = [
        name for name, one in found.items() if one.shape == shape and isinstance(get_module(root, name), nn.Linear)
    ]
    return Features(tuple(found.values()), linear[-1] if linear else None, shape)


def first_tensor(output: Any) -> Tensor | None:
    """The main tensor of a module's output, or None."""
    try:
        return main_output(output)
    except TypeError:
        return None


def shared_parameters(root: nn.Module) -> set[str]:
    """Names of parameters that several modules hold in common; a module of several names is one."""
    names: dict[int, list[str]] = defaultdict(list)
    for path, module in root.named_modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            names[id(parameter)].append(f"{path}.{name}".lstrip("."))
    return {name for group in names.values() if len(group) > 1 for name in group}
