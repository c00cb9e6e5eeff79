"""Layers one after the other, each with what it reads and what it should give, while the caller replaces them.

The model is walked block by block, so that a layer costs runs of its block and not of all that is before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.calibration.block_walk.block_step import Step
from ...analysis.calibration.block_walk.blocks import find_blocks, run_block
from ...analysis.calibration.block_walk.streaming import walk
from ...analysis.calibration.hooks import Reached, watch
from ...core.tensors.modules import get_module
from ...core.types import Inputs, Loaded, call, to_device
from .find_layers import Site

#: (input, wanted output) of each call
Pairs = Iterator[tuple[Tensor, Tensor]]


def inputs_and_outputs(
    loaded: Loaded,
    reference: nn.Module,
    sites: list[Site],
    batches: list[Inputs],
    device: torch.device,
    *,
    compressed: bool,
) -> Iterator[tuple[Site, Pairs]]:
    """Each layer with its inputs and wanted outputs; the caller replaces it in the model before it asks for the next.

    Args:
        loaded: the model whose layers are replaced.
        reference: the same before anything was replaced; gives the wanted outputs.
        sites: the layers.
        batches: calibration inputs.
        device: where they are moved first.
        compressed: whether inputs are those that arrive behind the replaced layers, and not the reference's.
    """
    left = {site.name: site for site in sites}
    blocks = find_blocks(reference, loaded.example) if left else []
    held = [number for number, block in enumerate(blocks) if left.keys() & set(block.layers)]
    if held:
        blocks = blocks[: held[-1] + 1]
        for step in walk(loaded.module, blocks, batches, reference=reference, device=device):
            for name in [name for name in step.block.layers if name in left]:
                replaced = get_module(loaded.module, name)
                yield left[name], _in_block(step, reference, left.pop(name), compressed=compressed)
                _answer_for(replaced, get_module(loaded.module, name))
    for site in left.values():  # that no block calls
        yield site, _in_model(loaded.module if compressed else reference, reference, site, batches, device)


def _in_block(step: Step, reference: nn.Module, site: Site, *, compressed: bool) -> Pairs:
    for arriving, given in zip(step.inputs, step.reference_inputs or (), strict=True):
        wanted = _calls_of(reference, site, partial(run_block, reference, step.block, *given))
        own = _calls_of(step.root, site, partial(run_block, step.root, step.block, *arriving)) if compressed else wanted
        yield from _matched(own, wanted)


def _in_model(given: nn.Module, reference: nn.Module, site: Site, batches: list[Inputs], device: torch.device) -> Pairs:
    for batch in batches:
        moved = to_device(batch, device)
        wanted = _calls_of(reference, site, partial(call, reference, moved))
        own = wanted if given is reference else _calls_of(given, site, partial(call, given, moved))
        yield from _matched(own, wanted)


def _matched(arriving: list[tuple[Tensor, Tensor]], wanted: list[tuple[Tensor, Tensor]]) -> Pairs:
    for (inputs, _), (_, outputs) in zip(arriving, wanted, strict=True):
        yield inputs, outputs


@torch.no_grad()
def _calls_of(root: nn.Module, site: Site, run: Callable[[], Any]) -> list[tuple[Tensor, Tensor]]:
    """What a layer reads and gives in each of its calls; the run ends there."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
        seen.append((inputs[0].detach().clone(), output.detach().clone()))  # clones: a ReLU may overwrite them in place
        if len(seen) == len(site.calls):
            raise Reached

    with watch(root, {site.name: note}), suppress(Reached):
        run()
    return seen


def _answer_for(replaced: nn.Module, new: nn.Module) -> None:
    """Let forward passes that wait before a replaced layer go on with what stands in its place."""
    if new is not replaced and replaced._forward_pre_hooks:
        replaced.register_forward_hook(lambda _module, inputs, _output: new(*inputs))
