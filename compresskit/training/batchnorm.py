"""BatchNorm statistics taken anew, for weights that have moved on since the old ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..core.types import Inputs, call, to_device


def channel_scale(norm: nn.Module) -> Tensor:
    """What a batch normalization in eval mode multiplies each channel by, (channels,) float64."""
    variance, eps, weight = norm.get_buffer("running_var"), getattr(norm, "eps", 0.0), getattr(norm, "weight", None)
    scale = torch.rsqrt(variance.double() + eps)
    return scale if weight is None else scale * weight.detach().double()


@torch.no_grad()
def estimate_batchnorm(module: nn.Module, batches: Iterable[Inputs], device: torch.device | None = None) -> int:
    """Replace running statistics by plain averages over batches; everything else runs as in evaluation.

    Args:
        module: the model; its mode is kept.
        batches: inputs; not read where there is no BatchNorm.
        device: where the model is; None takes the batches as they are.
    Returns:
        how many BatchNorm layers were estimated again.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    modes = {layer: layer.training for layer in module.modules()}
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.training = True
    try:
        for inputs in batches:
            call(module, to_device(inputs, device) if device else inputs)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for layer, mode in modes.items():
            layer.training = mode
    return len(norms)
