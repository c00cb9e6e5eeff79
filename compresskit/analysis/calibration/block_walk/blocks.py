"""A model's blocks: the parts, one after the other, whose inputs are calibrated and whose outputs are reconstructed.

A block is a call of a module that encloses several layers (a residual block, a transformer layer), or else a run of
layers, each of which reads what the one before gives. What a forward does between blocks (shortcuts around them,
concatenations, position embeddings) belongs to none: it stays in the model's own forward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ....core.errors import InputError
from ....core.tensors.devices import device_of
from ....core.tensors.modules import get_module, match_names
from ....core.types import Inputs, to_device
from .call_tree import ModuleCall, call_counts, record_calls

Kind = Literal["residual", "module", "run", "model"]

#: layers of a run; a longer one would have to be reconstructed through more than a residual block's depth
_LONGEST_RUN = 3
#: layers of a module that adds the outputs of layers itself, to be a block for that
_SMALL = 8
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Block:
    """A part of a model that is called once a forward pass.

    Attributes:
        modules: names of the modules that are called one after the other. The first takes what enters the block; each
            of the others takes what the one before returned, and nothing else.
        layers: names of the modules with weights of two dimensions or more in it, in the order in which they run.
        kind: residual (its own forward adds two activations), module, run (a chain of layers), or model (all of it).
        enters: shapes of the tensors that enter it in the example run, by position, then by name.
        leaves: shapes of the tensors that leave it.
        mutates: whether its first module changes in place what enters; who calls it again then needs copies.
        fleeting: whether it, or what follows, changes in place what enters or leaves it.
    """

    modules: tuple[str, ...]
    layers: tuple[str, ...]
    kind: Kind
    enters: tuple[tuple[int, ...], ...]
    leaves: tuple[tuple[int, ...], ...]
    mutates: bool = False
    fleeting: bool = False

    @property
    def name(self) -> str:
        """What reports call it."""
        first, last = self.modules[0], self.modules[-1]
        return f"{first} .. {last}" if len(self.modules) > 1 else first or "the whole model"


def run_block(root: nn.Module, block: Block, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call one block alone, on what entered it; returns what its last module returns."""
    first, *others = block.modules
    output = get_module(root, first)(*args, **kwargs)
    for name in others:
        output = get_module(root, name)(output)
    return output


def modules_of(root: nn.Module, block: Block) -> list[tuple[str, nn.Module]]:
    """All modules in a block by name, those that are called one after the other and those inside them."""
    inside = {id(one) for name in block.modules for one in get_module(root, name).modules()}
    return [(name, module) for name, module in root.named_modules() if id(module) in inside]


def find_blocks(root: nn.Module, inputs: Inputs, patterns: Sequence[str] = ()) -> list[Block]:
    """A model's blocks in the order in which they run; every layer that runs is in exactly one.

    A module becomes a block if it encloses two layers or more and none of its parts is repeated: from the root
    downwards, a module is split if it holds a list of parts of two layers or more (a stage, an encoder), or calls
    several such parts of one class; the members of such a list that add two activations themselves stay whole. Layers
    that are called by themselves become runs, except those of a small module that adds activations itself. A module
    that runs more than once, or whose layers are read without being called, stays inside the smallest module around it
    that runs once.

    Args:
        root: the model.
        inputs: an example input.
        patterns: shell-style patterns of modules that are to be blocks in the place of what is found.
    Raises:
        InputError: if a pattern matches no module, or one that cannot be a block.
    """
    return _Finder(root, record_calls(root, to_device(inputs, device_of(root))), patterns).blocks()


def block_table(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """A row for each block, for people."""
    return [
        {
            "block": block.name,
            "kind": block.kind,
            "layers": ", ".join(_below(layer, block) for layer in block.layers),
            "enters": _shown(block.enters),
            "leaves": _shown(block.leaves),
        }
        for block in blocks
    ]


def _below(layer: str, block: Block) -> str:
    return layer.removeprefix(f"{block.modules[0]}.") if len(block.modules) == 1 else layer


def _shown(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def is_layer(module: nn.Module) -> bool:
    """Whether a module has weights of two dimensions or more itself; axes of length one do not count."""
    shapes = [one.shape for one in module._parameters.values() if one is not None and not is_lazy(one)]
    return any(sum(size > 1 for size in shape) > 1 for shape in shapes)


@dataclass
class _Finder:
    root: nn.Module
    whole: ModuleCall
    patterns: Sequence[str]
    _found: list[Block] = field(default_factory=list)

    def blocks(self) -> list[Block]:
        if self._must_stay_whole(self.whole) or (self._adds_layers(self.whole) and not self._named):
            if self._named:
                raise InputError(f"blocks: {self._named[0]!r} can be no block, because the model only runs as a whole")
            return [self._block([self.whole])]
        self._split(self.whole)
        made = {name for block in self._found for name in block.modules}
        missing = [name for name in self._named if name not in made and not self._enclosed(name, made)]
        if missing:
            raise InputError(
                f"blocks: {missing[0]!r} can be no block; it has no layers, does not run by itself, or runs more than "
                "once"
            )
        return self._found

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self.root.named_modules())

    @cached_property
    def _counts(self) -> Counter[str]:
        return call_counts(self.whole)

    @cached_property
    def _named(self) -> list[str]:
        return match_names(self.patterns, [name for name in self._modules if name], what="module")

    @cached_property
    def _layer_names(self) -> list[str]:
        return [name for name, module in self._modules.items() if name and is_layer(module)]

    def _layers(self, name: str) -> list[str]:
        """Layers in a module, itself included."""
        return [one for one in self._layer_names if not name or one == name or one.startswith(f"{name}.")]

    def _enclosed(self, name: str, others: set[str]) -> bool:
        parts = name.split(".")
        return any(".".join(parts[:depth]) in others for depth in range(1, len(parts)))

    def _parts(self, made: ModuleCall) -> list[ModuleCall]:
        """The calls within one that hold layers."""
        return [one for one in made.calls if self._layers(one.name)]

    def _must_stay_whole(self, made: ModuleCall) -> bool:
        """Whether layers below are reached in other ways than by one call of each of the parts."""
        parts = self._parts(made)
        if not parts or any(self._counts[part.name] > 1 for part in parts):
            return True
        module = self._modules[made.name]
        if any(isinstance(one, torch.jit.ScriptModule) for one in module.children()):
            return True  # its layers run, and nothing is seen of it
        below = (self._modules[layer] for layer in self._layers(made.name) if layer != made.name)
        return any(self._reads(made, layer) for layer in below)

    def _adds_layers(self, made: ModuleCall) -> bool:
        """Whether a small module of single layers is a residual block by itself."""
        sizes = [len(self._layers(part.name)) for part in self._parts(made)]
        return made.adds and max(sizes) == 1 and 1 < len(sizes) <= _SMALL

    @cached_property
    def _called(self) -> set[int]:
        return {id(self._modules[name]) for name in self._counts}

    def _reads(self, made: ModuleCall, layer: nn.Module) -> bool:
        """Whether a module's own forward reads the weights of a layer that is never called."""
        return id(layer) not in self._called and any(id(one) in made.reads for one in layer.parameters(recurse=False))

    def _is_unit(self, made: ModuleCall) -> bool:
        """Whether a module of several layers is a block as it is."""
        module = self._modules[made.name]
        if any(self._enclosed(name, {made.name}) for name in self._named):
            return False
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            return False
        if made.adds and self._is_repeated(made.name):
            return True
        lists = [one for one in module.modules() if isinstance(one, _CONTAINERS)]
        if any(sum(len(_layers_of(part)) > 1 for part in one.children()) > 1 for one in lists):
            return False
        classes = Counter(
            type(self._modules[part.name]) for part in self._parts(made) if len(self._layers(part.name)) > 1
        )
        return all(count < 2 for kind, count in classes.items() if kind is not nn.Sequential)

    def _is_repeated(self, name: str) -> bool:
        """Whether a module is one of several of two layers or more in a list."""
        parent = self._modules.get(name.rpartition(".")[0])
        if not isinstance(parent, _CONTAINERS):
            return False
        return sum(len(_layers_of(part)) > 1 for part in parent.children()) > 1

    def _split(self, made: ModuleCall) -> None:
        run: list[ModuleCall] = []
        for part in made.calls:
            layers = self._layers(part.name)
            if run and (run[-1].leaves is None or part.enters != run[-1].leaves or self._counts[part.name] > 1):
                self._close(run)
            if not layers:
                if run:
                    run.append(part)
                continue
            single = len(layers) == 1 and not self._enclosing_pattern(part)
            if single and part.name not in self._named:
                if sum(bool(self._layers(one.name)) for one in run) == _LONGEST_RUN:
                    self._close(run)
                run.append(part)
                continue
            self._close(run)
            if part.name in self._named or self._must_stay_whole(part) or self._is_unit(part):
                self._found.append(self._block([part]))
            else:
                self._split(part)
        self._close(run)

    def _enclosing_pattern(self, part: ModuleCall) -> bool:
        return any(self._enclosed(name, {part.name}) for name in self._named)

    def _close(self, run: list[ModuleCall]) -> None:
        if run:
            self._found.append(self._block(run))
        run.clear()

    def _block(self, calls: list[ModuleCall]) -> Block:
        layers = dict.fromkeys(layer for one in calls for layer in self._in_order(one))
        kind: Kind = "run"
        if calls == [self.whole]:
            kind = "model"
        elif len(calls) == 1 and len(layers) > 1:
            kind = "residual" if any(one.adds for one in calls[0].walk()) else "module"
        return Block(
            tuple(one.name for one in calls),
            tuple(layers),
            kind,
            calls[0].shapes[0],
            calls[-1].shapes[1],
            calls[0].mutates,
            calls[0].fleeting or calls[-1].fleeting,
        )

    def _in_order(self, made: ModuleCall) -> Iterator[str]:
        """Layers within a call as they run; those whose weights a module reads past them come where it does."""
        for one in made.walk():
            layers = self._layers(one.name)
            yield from (layer for layer in layers if layer == one.name or self._reads(one, self._modules[layer]))


def _layers_of(module: nn.Module) -> list[nn.Module]:
    return [one for one in module.modules() if is_layer(one)]
