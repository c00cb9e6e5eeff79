"""Gradients on calibration data: of weights, and of the channels that layers read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.calibration.channels import channel_axis
from ...analysis.calibration.hooks import watch
from ...core.tensors.batches import count_examples
from ...core.tensors.dtypes import float32_weights, in_float32, widened
from ...core.types import Inputs
from ...evaluation.losses import Loss, run_with_loss


@dataclass
class Gradients:
    """Mean gradient and mean squared gradient of every parameter over batches, by parameter name."""

    mean: dict[str, Tensor]
    square: dict[str, Tensor]


@in_float32
def weight_gradients(
    module: nn.Module, batches: Iterable[tuple[Inputs, Tensor]], loss: Loss | None = None
) -> Gradients:
    """Gradients of the task loss in eval mode; the model's own gradients stay untouched."""
    parameters = {name: p for name, p in module.named_parameters() if p.is_floating_point()}
    flags = {name: p.requires_grad for name, p in parameters.items()}
    mean = {name: torch.zeros_like(widened(p)) for name, p in parameters.items()}
    square = {name: torch.zeros_like(widened(p)) for name, p in parameters.items()}
    count = 0
    try:
        for p in parameters.values():
            p.requires_grad_(True)
        for inputs, targets in batches:
            with torch.enable_grad():
                _, value = run_with_loss(module, inputs, targets, loss)
            found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    mean[name] += gradient
                    square[name] += widened(gradient).square()
            count += 1
    finally:
        for name, p in parameters.items():
            p.requires_grad_(flags[name])
    for name in parameters:
        mean[name] /= max(count, 1)
        square[name] /= max(count, 1)
    return Gradients(mean, square)


def first_order_effects(
    module: nn.Module, names: Sequence[str], batches: Iterable[tuple[Inputs, Tensor]], loss: Loss | None = None
) -> dict[str, Tensor]:
    """What removing each input channel of layers does to the task loss, to first order.

    Args:
        module: the model, in eval mode; its parameters take gradients.
        names: layers.
        batches: (inputs, targets).
        loss: a row of LOSSES; None goes by the kind of targets.
    Returns:
        layer name -> (channels,) float64: mean over examples of |sum of x * dloss/dx|, of the layers that are reached.
    """
    sums: dict[str, Tensor] = {}
    seen: list[tuple[str, Tensor]] = []

    def watcher(name: str):
        def look(layer: nn.Module, inputs: tuple, _output: Any) -> None:
            channels = inputs[0].shape[channel_axis(layer, inputs[0])]
            sums.setdefault(name, torch.zeros(channels, dtype=torch.float64))
            if inputs[0].requires_grad:
                seen.append((name, inputs[0]))

        return look

    examples = 0
    # gradients of 16 bits underflow
    with float32_weights(module), watch(module, {name: watcher(name) for name in names}), torch.enable_grad():
        for inputs, targets in batches:
            seen.clear()
            count = count_examples(inputs)
            value = run_with_loss(module, inputs, targets, loss)[1] * count
            gradients = torch.autograd.grad(value, [x for _, x in seen], allow_unused=True)
            examples += count
            for (name, x), gradient in zip(seen, gradients, strict=True):
                if gradient is not None:
                    effect = (widened(x) * widened(gradient)).detach()
                    channel = channel_axis(module.get_submodule(name), effect)
                    others = [dim for dim in range(1, effect.dim()) if dim != channel]
                    effect = effect.sum(others) if others else effect
                    sums[name] += effect.abs().sum(0).double().cpu()
    return {name: total / max(examples, 1) for name, total in sums.items()}
