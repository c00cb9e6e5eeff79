"""Layers whose outputs are a model's answers: no other layer that learns reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from ..core.tensors.batches import count_examples, pick
from ..core.tensors.modules import get_module
from ..core.types import Inputs, call
from .dataflow import Key, Trace, trace

_CHOOSING = ("topk", "sort", "argsort", "argmax", "nonzero", "nms", "roi_align")  # what follows has no gradient to give

_EXAMPLES = 2


def answering_layers(
    module: nn.Module, inputs: Inputs, names: Sequence[str], rows: Literal["aligned", "any"] = "aligned"
) -> list[str]:
    """Those of some layers whose outputs no other layer that learns reads; of several calls, the outputs of all.

    Args:
        module: the model.
        inputs: what it takes.
        names: the layers in question; those that have no weights to learn are left out.
        rows: aligned leaves out layers behind a choice, such as the box head of a detector of two stages: another
            model picks other rows, in another order.
    """
    run = _traced(module, inputs)
    picked = _picked(run) if rows == "aligned" else set()
    outputs = {name: [call.outputs for call in run.calls.get(name, [])] for name in names if _learns(module, name)}
    return [
        name
        for name, calls in outputs.items()
        if calls
        and all(len(keys) == 1 for keys in calls)
        and not any(keys[0] in picked or _is_read(module, run, keys[0]) for keys in calls)
    ]


def layers_behind_choices(module: nn.Module, inputs: Inputs) -> set[str]:
    """Layers that compute with what was picked, such as the box and mask heads of a detector of two stages."""
    run = _traced(module, inputs)
    picked = _picked(run)
    return {name for name, calls in run.calls.items() if any(key in picked for call in calls for key in call.outputs)}


@torch.no_grad()
def unaligned_layers(module: nn.Module, inputs: Inputs) -> set[str]:
    """Layers whose rows another detector has in another order; none of a model that returns no boxes."""
    return layers_behind_choices(module, inputs) if are_boxes(call(module, _few(inputs))) else set()


def are_boxes(outputs: Any) -> bool:
    """Whether outputs are boxes that were picked, as torchvision's detectors return them in eval mode."""
    images = outputs if isinstance(outputs, list | tuple) else [outputs]
    return any(isinstance(image, Mapping) and "boxes" in image for image in images)


def _traced(module: nn.Module, inputs: Inputs) -> Trace:
    return trace(module, _few(inputs))


def _few(inputs: Inputs) -> Inputs:
    # a detector picks boxes image by image and class by class: more images only repeat what two do
    return pick(inputs, torch.arange(_EXAMPLES)) if count_examples(inputs) > _EXAMPLES else inputs


def _picked(run: Trace) -> set[Key]:
    """All values that were computed from what was picked."""
    picked: set[Key] = set()
    for node in run.nodes:
        if node.op in _CHOOSING or any(key in picked for key in node.inputs):
            picked.update(node.outputs)
    return picked


def _learns(module: nn.Module, name: str) -> bool:
    return any(parameter.requires_grad for parameter in get_module(module, name).parameters(recurse=False))


def _is_read(module: nn.Module, run: Trace, key: Key) -> bool:
    """Whether a layer that learns computes with a value, or with what was computed from it."""
    waiting, seen = [key], {key}
    while waiting:
        for node in run.consumers.get(waiting.pop(), []):
            if _learns(module, node.module):
                return True
            following = () if node.op in _CHOOSING else set(node.outputs) - seen
            seen.update(following)
            waiting.extend(following)
    return False
