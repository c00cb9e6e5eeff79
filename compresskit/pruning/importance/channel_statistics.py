"""Gradients of weights, and per-channel statistics of what layers read, from calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...analysis.calibration.hooks import watch
from ...core.tensors.dtypes import float32_weights, in_float32, widened
from ...core.tensors.modules import get_module
from ...core.types import Inputs, call, main_output


@dataclass
class Gradients:
    """Mean gradient and mean squared gradient of every parameter over batches, by parameter name."""

    mean: dict[str, Tensor]
    square: dict[str, Tensor]


@dataclass
class Channels:
    """Statistics of one layer's input channels, each (channels,).

    Attributes:
        magnitude: mean of |x|.
        mean, square: mean of x and of x^2.
        zeros: share of elements that are zero.
        taylor: mean over examples of |sum of x * dloss/dx|; zeros where no loss was given.
    """

    magnitude: Tensor
    mean: Tensor
    square: Tensor
    zeros: Tensor
    taylor: Tensor


def task_loss(outputs: Any, targets: Tensor) -> Tensor:
    """Cross-entropy where targets are classes, else mean squared error."""
    logits = widened(main_output(outputs))
    if targets.is_floating_point():
        return F.mse_loss(logits, targets.reshape(logits.shape).to(logits.dtype))
    return F.cross_entropy(logits, targets)


@in_float32
def weight_gradients(module: nn.Module, batches: Iterable[tuple[Inputs, Tensor]]) -> Gradients:
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
                loss = task_loss(call(module, inputs), targets)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
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


@in_float32
def output_sensitivity(
    module: nn.Module, names: Sequence[str], batches: Iterable[tuple[Inputs, Tensor]]
) -> dict[str, Tensor]:
    """How much the loss minds an error in each output of layers: the diagonal of the empirical Fisher information.

    Args:
        module: the model, in eval mode.
        names: linear layers and convolutions.
        batches: (inputs, targets).
    Returns:
        layer name -> (out,): squared gradients of one example's loss, summed over positions, averaged over examples.
    """
    sums: dict[str, Tensor] = {}
    seen: list[tuple[str, Tensor]] = []

    def watcher(name: str):
        def look(_layer: nn.Module, _inputs: tuple, output: Tensor) -> None:
            seen.append((name, output))

        return look

    examples = 0
    with watch(module, {name: watcher(name) for name in names}), torch.enable_grad():
        for inputs, targets in batches:
            seen.clear()
            outputs = call(module, inputs)
            loss = task_loss(outputs, targets) * len(targets)
            gradients = torch.autograd.grad(loss, [y for _, y in seen], allow_unused=True)
            examples += len(targets)
            for (name, _), gradient in zip(seen, gradients, strict=True):
                if gradient is not None:
                    rows = _rows(module.get_submodule(name), widened(gradient)).square().sum(0).double().cpu()
                    sums[name] = sums[name] + rows if name in sums else rows
    return {name: total / examples for name, total in sums.items()}


def channel_statistics(
    module: nn.Module, names: Sequence[str], batches: Iterable[tuple[Inputs, Tensor | None]], *, with_loss: bool = False
) -> dict[str, Channels]:
    """Statistics of the input channels of layers.

    Args:
        module: the model, in eval mode.
        names: layers.
        batches: (inputs, targets); targets are only read when `with_loss`.
        with_loss: also measure the first-order effect on the task loss.
    """
    sums: dict[str, Channels] = {}
    counts: dict[str, int] = {}
    seen: list[tuple[str, Tensor]] = []

    def watcher(name: str):
        def look(layer: nn.Module, inputs: tuple, _output: Any) -> None:
            x = inputs[0]
            if with_loss and x.requires_grad:
                seen.append((name, x))
            rows = _rows(layer, widened(x.detach()))
            if name not in sums:
                sums[name] = Channels(*(torch.zeros(rows.shape[1], dtype=torch.float64) for _ in range(5)))
            found = sums[name]
            found.magnitude += rows.abs().sum(0).double().cpu()
            found.mean += rows.sum(0).double().cpu()
            found.square += rows.square().sum(0).double().cpu()
            found.zeros += (rows == 0).sum(0).double().cpu()
            counts[name] = counts.get(name, 0) + len(rows)

        return look

    examples = 0
    # gradients of 16 bits underflow
    types = float32_weights(module) if with_loss else nullcontext()
    with types, watch(module, {name: watcher(name) for name in names}), torch.set_grad_enabled(with_loss):
        for inputs, targets in batches:
            seen.clear()
            outputs = call(module, inputs)
            if with_loss:
                examples += len(targets)
                _add_taylor(module, sums, seen, task_loss(outputs, targets) * len(targets))
    for name, found in sums.items():
        for kind in ("magnitude", "mean", "square", "zeros"):
            setattr(found, kind, getattr(found, kind) / counts[name])
        found.taylor /= max(examples, 1)
    return sums


def _add_taylor(module: nn.Module, sums: dict[str, Channels], seen: list[tuple[str, Tensor]], loss: Tensor) -> None:
    gradients = torch.autograd.grad(loss, [x for _, x in seen], allow_unused=True)
    for (name, x), gradient in zip(seen, gradients, strict=True):
        if gradient is not None:
            effect = (widened(x) * widened(gradient)).detach()
            channel = effect.dim() - 1 if isinstance(get_module(module, name), nn.Linear) else 1
            others = [d for d in range(1, effect.dim()) if d != channel]
            effect = effect.sum(others) if others else effect
            sums[name].taylor += effect.abs().sum(0).double().cpu()


def _rows(layer: nn.Module, x: Tensor) -> Tensor:
    """(samples, channels) of a layer's input."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    return x.movedim(1, -1).reshape(-1, x.shape[1])
