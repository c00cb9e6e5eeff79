"""After the cut: BatchNorm statistics are estimated again on calibration data."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..core.types import Inputs, call


@torch.no_grad()
def recalibrate_batchnorm(module: nn.Module, batches: Iterable[Inputs]) -> int:
    """Replace running statistics by plain averages over batches.

    Args:
        module: the model; its mode is kept.
        batches: calibration inputs.
    Returns:
        how many BatchNorm layers were estimated again.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not layers:
        return 0
    training = {m: m.training for m in module.modules()}
    momentum = {layer: layer.momentum for layer in layers}
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.training = True
    try:
        for inputs in batches:
            call(module, inputs)
    finally:
        for layer in layers:
            layer.momentum = momentum[layer]
        for m, mode in training.items():
            m.training = mode
    return len(layers)
