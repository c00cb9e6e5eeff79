"""One training step on a copy, so that a loss that does not fit is named before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..core.errors import CompresskitError, InputError, described
from ..core.tensors.dtypes import float32_weights
from ..core.types import Loaded, to_device
from ..data.augmentation import transforms
from ..evaluation.losses import plain_objective
from .context import Context
from .distributed.ddp_wrapper import Objective
from .loop import check_divides
from .optim import make_optimizer, number_type
from .options import TrainOptions

_EXAMPLES = 2  # of the checked batch: batch normalization needs more than one


def check_training(
    loaded: Loaded,
    options: TrainOptions,
    context: Context,
    *,
    objective: Objective | None = None,
    extra_modules: Sequence[nn.Module] = (),
) -> None:
    """Run forward, loss and backward of a small batch on a copy of the model; the model is left as it is.

    Args:
        loaded: what would be trained.
        options: how.
        context: data, seed and device; without data nothing is checked.
        objective: the loss; None takes the data's own, as `train` does.
        extra_modules: modules trained along; their gradients are left behind.
    Raises:
        InputError: if nothing can be trained, or the step fails, or its loss is not finite.
    """
    if context.data is None:
        return
    check_divides(options, context)
    module = loaded.clone().module.to(context.device).train()
    extras = [extra.to(context.device).train() for extra in extra_modules]
    make_optimizer([module, *extras], options)
    inputs, targets, indices = _first_batch(options, context)
    begin = getattr(objective, "begin_step", None)
    if begin:
        begin(indices, 0, 1)
    dtype = number_type(options.precision, context.device)
    try:
        with torch.enable_grad(), float32_weights(module):
            with torch.autocast(context.device.type, dtype, enabled=dtype != torch.float32):
                if objective is None:
                    loss = plain_objective(options.label_smoothing, module, inputs, targets, context.loss)
                else:
                    loss = objective(module, inputs, targets)
            loss.backward()
        value = float(loss.detach())
    except CompresskitError:
        raise
    except Exception as error:  # the model, the loss and the data may be anybody's code
        raise InputError(
            f"model {loaded.name!r} does not train on data {context.data.name!r}: {described(error)}"
        ) from error
    if not math.isfinite(value):
        raise InputError(
            f"model {loaded.name!r}: the loss of {len(indices)} training examples of data {context.data.name!r} is "
            f"{value}; check the data's values and the model's weights"
        )


def _first_batch(options: TrainOptions, context: Context) -> tuple[Any, Any, torch.Tensor]:
    """(inputs, targets, indices) of the first training examples, changed as the training would change them."""
    batches = context.needs_data().batches(
        "train",
        batch_size=min(options.batch_size, _EXAMPLES),
        shuffle=True,
        seed=context.seed,
        limit=options.train_limit,
        augment=transforms.compose(options.augment),
    )
    targets: Any
    indices, inputs, targets = next(batches.numbered())
    if options.mixup or options.cutmix:
        generator = torch.Generator().manual_seed(context.seed)
        inputs, targets = transforms.mix(inputs, targets, generator, mixup=options.mixup, cutmix=options.cutmix)
    inputs = to_device(inputs, context.device)
    return inputs, transforms.map_targets(lambda part: to_device(part, context.device), targets), indices
