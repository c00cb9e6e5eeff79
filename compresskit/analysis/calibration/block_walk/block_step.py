"""One block of a model with all calibration data before it: what enters it, what it gives, statistics of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ....core.tensors.freed_memory import return_freed_memory
from ..collect import Taken
from ..hooks import Watcher, watch
from ..im2col import window_of
from .activation_cache import ActivationCache
from .blocks import Block, run_block

#: what entered a block: positional and named arguments
Entered = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Held:
    """What entered (or left) one block, one structure a batch; in memory only while it is looked at.

    Args:
        cache: holds the tensors.
        parts: one a batch that reached the block.
        copies: whether what is handed out is a copy, because its reader changes it in place.
    """

    cache: ActivationCache
    parts: list[Any] = field(default_factory=list)
    copies: bool = False

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Any]:
        for part in self.parts:
            with self.cache.loaded(part):
                yield tree_map(copied, part) if self.copies else part


@dataclass
class Step:
    """One block, with all calibration data before it.

    Attributes:
        block: the block.
        root: the model, whose block is changed in place before the next step.
        inputs: what enters the block, behind the compressed blocks before it: (args, kwargs) a batch.
        reference_inputs: what enters it in the reference model, where one was asked for.
        reference_outputs: what leaves it there.
    """

    block: Block
    root: nn.Module
    inputs: Held
    reference_inputs: Held | None = None
    reference_outputs: Held | None = None

    @torch.no_grad()
    def outputs(self) -> Iterator[Any]:
        """What the block gives for its inputs as it is now, batch by batch."""
        for args, kwargs in self.inputs:
            yield run_block(self.root, self.block, args, kwargs)

    def watch(self, watchers: Mapping[str, Watcher]) -> None:
        """Run the block on its inputs, feeding watchers of its layers."""
        with watch(self.root, watchers):
            for _ in self.outputs():
                pass

    def collect(self, statistics: Mapping[str, Taken]) -> dict[str, Taken]:
        """Feed statistics of the block's layers; layers that read the same tensors the same way share one.

        Args:
            statistics: by layer name; of the same kind, and each empty.
        Returns:
            the statistics of the layers that the data reached.
        """
        return _collected(self.root, statistics, self.outputs())

    def collect_reference(self, reference: nn.Module, statistics: Mapping[str, Taken]) -> dict[str, Taken]:
        """The same of the reference model."""
        runs = (run_block(reference, self.block, args, kwargs) for args, kwargs in self.reference_inputs or ())
        return _collected(reference, statistics, runs)


@torch.no_grad()
def _collected(root: nn.Module, statistics: Mapping[str, Taken], runs: Iterator[Any]) -> dict[str, Taken]:
    """Feed statistics while a block runs; after the first batch layers that read the same keep one in common."""
    taken, leaders = dict(statistics), {name: name for name in statistics}
    reads: dict[str, list[Any]] = {name: [] for name in statistics}
    held: list[Tensor] = []  # so that what is read keeps its place until the batch is done

    def watcher(name: str) -> Watcher:
        def look(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
            read = inputs[0].detach()
            if leaders[name] == name:
                taken[name].update(layer, read, output.detach())
            if first:
                held.append(read)
                place = read.data_ptr(), read.shape, read.stride(), read._version
                reads[name].append((*place, _way_of_reading(layer, read)))

        return look

    first = True
    with watch(root, {name: watcher(name) for name in statistics}):
        for _ in runs:
            if first:
                return_freed_memory()
                of_reads: dict[tuple, str] = {}
                for name, calls in reads.items():
                    if calls:
                        leaders[name] = of_reads.setdefault(tuple(calls), name)
                        taken[name] = taken[leaders[name]]
                first = False
                held.clear()
    reached = {leaders[name] for name, calls in reads.items() if calls}
    return {name: taken[name] for name in statistics if leaders[name] in reached}


def _way_of_reading(layer: nn.Module, read: Tensor) -> Any:
    """What decides what a layer's weights meet, beside its input."""
    return window_of(layer, read), id(layer) if "input_multiplier" in layer._buffers else None


def copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
