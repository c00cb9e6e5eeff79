"""Layers whose outputs are a model's answers: no other layer that learns reads them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..core.tensors.modules import get_module
from ..core.types import Inputs
from .dataflow import Key, Trace, trace

_CHOOSING = ("topk", "sort", "argsort", "argmax", "nonzero", "nms", "roi_align")  # what follows has no gradient to give


def answering_layers(module: nn.Module, inputs: Inputs, names: Sequence[str]) -> list[str]:
    """Those of some layers whose outputs no other layer that learns reads.

    Args:
        module: the model.
        inputs: what it takes.
        names: the layers in question; those that have no weights to learn are left out.
    """
    run = trace(module, inputs)
    outputs = {name: run.single_output(name) for name in names if _learns(module, name)}
    return [name for name, key in outputs.items() if key is not None and not _is_read(module, run, key)]


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
