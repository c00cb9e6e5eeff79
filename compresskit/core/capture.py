"""Watching layers while data runs through a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from .modules import get_module
from .types import Inputs, call, to_device

#: (layer, positional inputs, output) -> None
Watcher = Callable[[nn.Module, tuple, object], None]


@contextmanager
def watch(root: nn.Module, watchers: Mapping[str, Watcher]):
    """Call each named layer's watcher after every forward of that layer, while the context is open."""
    with ExitStack() as stack:
        for name, watcher in watchers.items():
            handle = get_module(root, name).register_forward_hook(watcher)
            stack.callback(handle.remove)
        yield


@torch.no_grad()
def stream(
    root: nn.Module, batches: Iterable[Inputs], watchers: Mapping[str, Watcher], device: torch.device | None = None
):
    """Run batches of inputs through a model in eval mode, feeding the watchers; keeps nothing itself."""
    training = root.training
    root.eval()
    try:
        with watch(root, watchers):
            for inputs in batches:
                call(root, to_device(inputs, device) if device else inputs)
    finally:
        root.train(training)
