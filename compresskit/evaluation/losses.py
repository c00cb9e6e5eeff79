"""The loss against the data's own targets, whatever kind they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InputError, nearest
from ..core.tensors.batches import count_examples
from ..core.tensors.devices import device_of
from ..core.tensors.dtypes import fit_inputs
from ..core.tensors.modules import evaluating
from ..core.types import Inputs, call, to_device
from ..core.user_code.user_imports import guarded
from ..data.augmentation.transforms import MixedTargets
from .loss_terms.own import computing_losses
from .tables import LOSSES
from .tasks import task_of

#: (outputs, targets) -> scalar; see `tables.LOSSES`
Loss = Callable[..., Any]


def task_loss(outputs: Any, targets: Any, label_smoothing: float = 0.0, loss: Loss | None = None) -> Tensor:
    """The loss against the data's own targets.

    Args:
        outputs: what the model returned.
        targets: what the data gives, or MixedTargets of it.
        label_smoothing: share of the target spread over all classes.
        loss: a row of LOSSES, loaded; None is `auto`.
    Raises:
        InputError: if the shapes do not fit, or a loss returns no scalar or knows no label smoothing.
    """
    if isinstance(targets, MixedTargets):
        first, second = (task_loss(outputs, part, label_smoothing, loss) for part in (targets.first, targets.second))
        return targets.share * first + (1 - targets.share) * second
    if loss is None:
        loss = LOSSES.load(task_of(outputs, targets).loss)
    if takes_module(loss):
        raise InputError("a model's own loss is computed from inputs and targets, and here are outputs only")
    if not label_smoothing:
        value = loss(outputs, targets)
    elif "label_smoothing" in inspect.signature(loss).parameters:
        value = loss(outputs, targets, label_smoothing=label_smoothing)
    else:
        raise InputError(f"label_smoothing would be ignored: loss {_name(loss)!r} does not take it; leave it out")
    return _scalar(value)


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"a task loss must return a scalar tensor, the mean over the batch, got {got}")
    return value.reshape(())


def _name(loss: Loss) -> str:
    return getattr(loss, "__name__", type(loss).__name__)


def auto(outputs: Any, targets: Any, label_smoothing: float = 0.0) -> Tensor:
    """The loss of the task that outputs and targets speak of; see `tasks.TASKS`.

    Args:
        outputs: what the model returned.
        targets: what the data gives.
        label_smoothing: of the cross-entropy.
    Raises:
        InputError: if no task is known for them, or the shapes do not fit.
    """
    return task_loss(outputs, targets, label_smoothing)


def takes_module(loss: Loss | None) -> bool:
    """Whether a loss is (module, inputs, targets) -> (outputs, scalar): the model's own."""
    return bool(getattr(loss, "takes_module", False))


def run_with_loss(
    module: nn.Module, inputs: Inputs, targets: Any, loss: Loss | None = None, label_smoothing: float = 0.0
) -> tuple[Any, Tensor]:
    """Run a model on a batch, and its loss against the targets.

    Args:
        module: the model.
        inputs: of the batch.
        targets: of the batch, wherever they lie, or MixedTargets.
        loss: a row of LOSSES, loaded; None is `auto`.
        label_smoothing: share of the target spread over all classes.
    Returns:
        (what the model returned, the scalar loss).
    Raises:
        InputError: if they do not fit together.
    """
    targets = to_device(targets, device_of(module))
    if loss is None and not isinstance(targets, Tensor | MixedTargets):
        loss = LOSSES.load("model")
    if not takes_module(loss):
        outputs = _answers_to(module, inputs, targets)
        return outputs, task_loss(outputs, targets, label_smoothing, loss)
    if isinstance(targets, MixedTargets) or label_smoothing:
        raise InputError("the model's own loss takes no mixup, cutmix or label_smoothing; leave them out")
    assert loss is not None  # it takes the module
    outputs, value = loss(module, inputs, targets)
    return outputs, _scalar(value)


def _answers_to(module: nn.Module, inputs: Inputs, targets: Any) -> Any:
    """Outputs of a model; those of a detector that takes boxes as targets are its mapping of losses, which to weigh."""
    if not isinstance(targets, list) or "targets" not in inspect.signature(module.forward).parameters:
        return call(module, inputs)
    given = fit_inputs(module, inputs)
    with computing_losses(module):
        return module(*given if isinstance(given, tuple) else (given,), targets=targets)


def make_loss(name: str, arguments: Mapping[str, Any] | None = None) -> Loss | None:
    """The loss that a name stands for: a row of LOSSES, or a user's own; None for `auto`.

    Args:
        name: of the row.
        arguments: of the row's function, beside outputs and targets.
    Raises:
        InputError: naming the nearest valid name, or the nearest valid argument.
    """
    if name == "auto":
        if arguments:
            raise InputError(f"task_loss_arg {', '.join(arguments)} needs a loss by name; set task_loss")
        return None
    try:
        loss = LOSSES.load(name)
    except ValueError as error:
        raise InputError(str(error)) from error
    if not LOSSES.builtin(name):
        loss = update_wrapper(partial(_of_the_user, loss, name), loss)
    return with_arguments(
        loss, arguments or {}, f"task_loss_arg of loss {name!r}", leave=3 if takes_module(loss) else 2
    )


def _of_the_user(loss: Loss, name: str, *given: Any, **named: Any) -> Any:
    """A loss of the user's own, named where it fails."""
    with guarded(f"task loss {name!r}"):
        return loss(*given, **named)


def with_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], where: str, *, leave: int) -> Any:
    """A function with some of its arguments given, and its attributes.

    Args:
        function: of a row.
        arguments: by name.
        where: what errors call them.
        leave: arguments at the front that its caller gives.
    Raises:
        InputError: naming the nearest argument.
    """
    if not arguments:
        return function
    known = [name for name in list(inspect.signature(function).parameters)[leave:] if name != "label_smoothing"]
    for name in arguments:
        if name not in known:
            raise InputError(f"{where}: unknown argument {name!r}{nearest(name, known)}")
    return update_wrapper(partial(function, **arguments), function)


def plain_objective(
    label_smoothing: float, module: nn.Module, inputs: Inputs, targets: Any, loss: Loss | None = None
) -> Tensor:
    """The objective of ordinary training."""
    return run_with_loss(module, inputs, targets, loss, label_smoothing)[1]


def mean_loss(module: nn.Module, batches: Iterable, device: torch.device, loss: Loss | None = None) -> float:
    """The task loss over all examples of some batches, the module in eval mode."""
    return mean_objective(module, batches, device, partial(plain_objective, 0.0, loss=loss))


@torch.no_grad()
def mean_objective(
    module: nn.Module, batches: Iterable, device: torch.device, objective: Callable[[nn.Module, Any, Any], Tensor]
) -> float:
    """An objective of training over all examples of some batches, the module in eval mode."""
    total, count = 0.0, 0
    with evaluating(module):
        for inputs, targets in batches:
            value = objective(module, to_device(inputs, device), to_device(targets, device))
            examples = count_examples(inputs if targets is None else targets)
            total, count = total + float(value) * examples, count + examples
    return total / count


def balanced_weights(batches: Iterable, classes: int) -> list[float]:
    """Weights of classes that make all of them count alike: examples / (classes * examples of the class).

    Args:
        batches: (inputs, targets) of the training split; targets are integers, negative ones are not counted.
        classes: their number.
    Raises:
        InputError: if targets are no classes below that number, or a class has no example.
    """
    counts = torch.zeros(classes, dtype=torch.float64)
    for _, targets in batches:
        if not isinstance(targets, Tensor) or targets.is_floating_point():
            raise InputError("class_weights=balanced counts classes, and the targets are none; give the weights")
        counted = targets[targets >= 0].flatten().cpu().long()
        if counted.numel() and int(counted.max()) >= classes:
            raise InputError(f"class_weights=balanced: there is a class {int(counted.max())}, the model has {classes}")
        counts += torch.bincount(counted, minlength=classes)
    if not bool((counts > 0).all()):
        missing = (counts == 0).nonzero().flatten().tolist()
        raise InputError(f"class_weights=balanced: no example of class {missing[0]}; give the weights")
    return (counts.sum() / (classes * counts)).tolist()
