"""Optimizers and learning-rate schedules of the training loop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from .options import TrainOptions

_ONE_CYCLE_RISE = 0.3
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1 / 250_000


def parameter_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict]:
    """Trainable parameters in two groups: weights with decay; biases, norms and other vectors without.

    Raises:
        InputError: if nothing can be trained.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    seen: set[int] = set()
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
        options: lr (the peak), lr_schedule and warmup; for one-cycle, a warmup that was set is the rising share.
    Source of one-cycle: Smith & Topin, "Super-Convergence", 2018.
    """
    if options.lr_schedule == "one-cycle":
        share = options.warmup if "warmup" in options.model_fields_set else _ONE_CYCLE_RISE
        rising = share * total - 1
        if step <= rising and rising > 0:
            return cosine(options.lr * _ONE_CYCLE_START, options.lr, step / rising)
        left = max(total - 1 - max(rising, 0), 1)
        return cosine(options.lr, options.lr * _ONE_CYCLE_END, min((step - max(rising, 0)) / left, 1.0))
    warm = round(options.warmup * total)
    if step < warm:
        return options.lr * (step + 1) / warm
    if options.lr_schedule == "constant":
        return options.lr
    return cosine(options.lr, 0.0, (step - warm) / max(total - warm, 1))


@torch.no_grad()
def gathered(tensor: Any) -> Tensor:
    """A tensor, whole where it is sharded."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def clip_gradients(parameters: Iterable[nn.Parameter], largest_norm: float) -> Tensor:
    """Scale all gradients so that their joint L2 norm is at most `largest_norm`; sharded ones count as whole.

    torch's own `clip_grad_norm_` does not take sharded and whole gradients together, its two halves do.

    Returns:
        the norm before, a scalar tensor: to read it would make an accelerator wait.
    """
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    sharded = [parameter for parameter in learning if hasattr(parameter.grad, "full_tensor")]
    whole = [parameter for parameter in learning if not hasattr(parameter.grad, "full_tensor")]
    norms = []
    for part in filter(None, (sharded, whole)):
        norm = nn.utils.get_total_norm([parameter.grad for parameter in part if parameter.grad is not None])
        norms.append(gathered(norm))
    if not norms:
        return torch.zeros(())
    joint = torch.linalg.vector_norm(torch.stack(norms))
    for part in filter(None, (sharded, whole)):
        nn.utils.clip_grads_with_norm_(part, largest_norm, joint)
    return joint


def cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from start to end, at a share of the way."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def number_type(wanted: str, device: torch.device) -> torch.dtype:
    """The type of the forward pass that the option `precision` means on a device."""
    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float32  # on CPUs without matrix tiles the short types are slower
