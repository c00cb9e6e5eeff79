"""The loss that a model computes itself, whichever way its library has it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import InputError
from ...core.tensors.dtypes import fit_inputs
from ...core.types import as_arguments, call, children

#: (module, inputs, targets) -> (outputs, loss), or None where the model is of another kind
_Way = Callable[[nn.Module, Any, Any], tuple[Any, Tensor] | None]

#: what the first parameter of a method is called that takes the model's outputs
_OF_OUTPUTS = ("outputs", "output", "logits", "predictions", "prediction", "preds", "pred", "y_pred", "y_hat")
_STATEFUL_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def own_loss(module: nn.Module, inputs: Any, targets: Any, method: str = "") -> tuple[Any, Tensor]:
    """Run a model on a batch and take the loss that it computes itself.

    It is, in this order: what the named method returns; ultralytics' `loss(batch)`; what forward returns when it is
    given `labels` (transformers) or `targets` (torchvision's detectors, in training mode); an output called `loss`.

    Args:
        module: the model, in the mode in which it is to run.
        inputs: of the batch.
        targets: of the batch; None where the inputs hold them.
        method: name of a method `(inputs, targets) -> loss`, or (loss, anything), or a mapping of losses. One whose
            first parameter is called `outputs` (or as in _OF_OUTPUTS) is given what forward returns, and one whose
            first is called `batch`, as Lightning's `training_step` has it, (inputs, targets) as one tuple.
    Returns:
        (what the model returned, the scalar loss): losses of a mapping are added up.
    Raises:
        InputError: if the model has no loss of its own.
    """
    if method:
        return _of_method(module, inputs, targets, method)
    for way in _WAYS:
        found = way(module, inputs, targets)
        if found is not None:
            return found
    missing = "the data has no targets, and " if targets is None else ""
    raise InputError(
        f"{missing}model {type(module).__name__} has no loss of its own: no method loss, no labels or targets in "
        "forward, and no output 'loss'; name a method with --task-loss-arg method=NAME, or another --task-loss"
        f"{'; or data with targets, or --recover kd' if missing else ''}"
    )


vars(own_loss)["takes_module"] = True


def _of_method(module: nn.Module, inputs: Any, targets: Any, name: str) -> tuple[Any, Tensor]:
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"model {type(module).__name__} has no method {name!r}, which task_loss_arg names")
    names = [name for name, one in inspect.signature(function).parameters.items() if one.default is one.empty]
    given = fit_inputs(module, inputs)
    if names[:1] and names[0] in _OF_OUTPUTS:
        outputs = call(module, inputs)
        return outputs, _scalar(_first(function(outputs, targets)), f"method {name!r}")
    if names[:1] == ["batch"]:
        returned = function((given, targets), *([0] if len(names) > 1 else []))  # the number of the batch
    else:
        returned = function(given, targets)
    return returned, _scalar(_first(returned), f"method {name!r}")


def _first(returned: Any) -> Any:
    """The loss of what a method returned: (loss, anything) or a loss; Lightning's mapping holds it as `loss`."""
    if isinstance(returned, Mapping) and isinstance(returned.get("loss"), Tensor):
        return returned["loss"]
    return returned[0] if isinstance(returned, tuple | list) and returned else returned


def _ultralytics(module: nn.Module, inputs: Any, targets: Any) -> tuple[Any, Tensor] | None:
    """Its trainers hand it a mapping: images, and of all boxes the image, the class and the place as shares."""
    if not hasattr(module, "init_criterion") or not callable(getattr(module, "loss", None)):
        return None
    images = inputs[0] if isinstance(inputs, tuple) else inputs
    images = torch.stack(images) if isinstance(images, list) else images
    batch = inputs if isinstance(inputs, Mapping) else {"img": images, **ultralytics_targets(images, targets)}
    model: Any = module
    if isinstance(getattr(model, "args", {}), Mapping):
        from ultralytics.cfg import get_cfg  # it is the model's own library

        model.args = get_cfg(overrides=dict(getattr(model, "args", {})))
    outputs = call(module, batch["img"])
    total, _ = model.loss(batch, outputs)
    return outputs, total.sum() / len(batch["img"])  # its losses are sums over the batch of means


def ultralytics_targets(images: Tensor, targets: Any) -> dict[str, Tensor]:
    """Boxes in corners of pixels as ultralytics takes them: image of each, class, centre and size as shares.

    Args:
        images: (batch, channels, height, width).
        targets: one mapping an image with boxes (n, 4) and labels (n,).
    """
    height, width = images.shape[-2:]
    scale = images.new_tensor([width, height, width, height])
    boxes = torch.cat([target["boxes"].to(scale).reshape(-1, 4) for target in targets]) / scale
    sizes, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    owners = [torch.full((len(target["labels"]),), float(number)) for number, target in enumerate(targets)]
    labels = torch.cat([target["labels"].reshape(-1, 1) for target in targets])
    return {
        "batch_idx": torch.cat(owners).to(scale),
        "cls": labels.to(scale),
        "bboxes": torch.cat([centres, sizes], 1),
    }


def _given(name: str, mode: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext) -> _Way:
    """A way for models whose forward computes the loss when it is given an argument of that name, in some mode."""

    def way(module: nn.Module, inputs: Any, targets: Any) -> tuple[Any, Tensor] | None:
        if targets is None or name not in inspect.signature(module.forward).parameters:
            return None
        given = fit_inputs(module, inputs)
        # a list of images is one argument
        positional, named = as_arguments(module, given if isinstance(given, Mapping | tuple) else (given,))
        with mode(module):
            outputs = module(*positional, **named, **{name: targets})
        return outputs, _scalar(_loss_in(outputs), f"forward with {name}")

    return way


def _output_named_loss(module: nn.Module, inputs: Any, targets: Any) -> tuple[Any, Tensor] | None:
    outputs = call(module, inputs)
    found = dict(children(outputs)).get("loss")
    return None if found is None else (outputs, _scalar(found, "output 'loss'"))


def _loss_in(outputs: Any) -> Any:
    found = dict(children(outputs)).get("loss")
    return outputs if found is None else found


def _scalar(found: Any, where: str) -> Tensor:
    """A loss as a scalar; those of a mapping are added up."""
    if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
        return torch.stack([value.float().sum() for value in found.values()]).sum()
    if isinstance(found, Tensor) and found.numel() == 1:
        return found.reshape(())
    kind = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise InputError(f"{where} of the model returned {kind}; a loss is a scalar, or a mapping of scalars")


@contextmanager
def _flags(module: nn.Module, training: bool) -> Iterator[None]:
    before = {layer: layer.training for layer in module.modules() if not isinstance(layer, _STATEFUL_LAYERS)}
    try:
        for layer in before:
            layer.training = training
        yield
    finally:
        for layer, flag in before.items():
            layer.training = flag


def computing_losses(module: nn.Module) -> AbstractContextManager[None]:
    """While open, modules are in training mode, in which detectors return losses; norms and dropouts stay as they are.

    A criterion or a validation takes the loss of a model in eval mode, whose statistics must not move.
    """
    return _flags(module, True)


def answering(module: nn.Module) -> AbstractContextManager[None]:
    """While open, modules are in eval mode, in which detectors need no targets; norms and dropouts stay as they are."""
    return _flags(module, False)


_WAYS: tuple[_Way, ...] = (_ultralytics, _given("labels"), _given("targets", computing_losses), _output_named_loss)
