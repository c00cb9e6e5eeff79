"""Optimizers and learning-rate schedules of the training loop."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from ..core.errors import InputError
from ..core.options import TrainOptions
from ..core.tensors.dtypes import as_real

_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1 / 250_000


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict]:
    """Trainable parameters in two groups: weights with decay; biases, norms and other vectors without.

    Raises:
        InputError: if nothing can be trained.
    """
    decayed, plain, seen = [], [], set()
    for module in modules:
        for parameter in module.parameters():
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            (decayed if parameter.dim() > 1 else plain).append(parameter)
    if not seen:
        raise InputError(
            "the model has no trainable parameters (integer weights cannot be trained); train before quantizing"
        )
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(modules: Iterable[nn.Module], options: TrainOptions) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, over the trainable parameters of some modules."""
    groups = parameter_groups(modules, options.weight_decay)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr)
    return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum)


def learning_rate(step: int, total: int, options: TrainOptions) -> float:
    """The learning rate of one step.

    Args:
        step: number of the step, from 0.
        total: number of steps of the whole training.
        options: lr (the peak), schedule and warmup; for one-cycle, a warmup that was set is the rising share.
    Source of one-cycle: Smith & Topin, "Super-Convergence", 2018.
    """
    if options.schedule == "one-cycle":
        share = options.warmup if "warmup" in options.model_fields_set else _ONE_CYCLE_RISE
        rising = share * total - 1
        if step <= rising and rising > 0:
            return _cosine(options.lr * _ONE_CYCLE_START, options.lr, step / rising)
        left = max(total - 1 - max(rising, 0), 1)
        return _cosine(options.lr, options.lr * _ONE_CYCLE_END, min((step - max(rising, 0)) / left, 1.0))
    warm = round(options.warmup * total)
    if step < warm:
        return options.lr * (step + 1) / warm
    if options.schedule == "constant":
        return options.lr
    return _cosine(options.lr, 0.0, (step - warm) / max(total - warm, 1))


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], largest_norm: float) -> float:
    """Scale all gradients so that their joint L2 norm is at most `largest_norm`; sharded ones count as whole.

    Returns:
        the norm before.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = [as_real(gradient).square().sum() for gradient in gradients]
    norm = sum(float(square.full_tensor() if hasattr(square, "full_tensor") else square) for square in squares) ** 0.5
    if norm > largest_norm:
        for gradient in gradients:
            gradient.mul_(largest_norm / norm)
    return norm


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def number_type(wanted: str, device: torch.device) -> torch.dtype:
    """The type of the forward pass that the option `precision` means on a device."""
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32  # on CPUs without matrix tiles the short types are slower
