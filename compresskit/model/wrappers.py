"""What training code wraps around a model or leaves unfinished in it: undone before anything looks at the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ..core.errors import InputError
from ..core.manifest.edit_records import EditRecord, Shape, reads
from ..core.tensors.devices import device_of
from ..core.tensors.modules import get_module
from ..core.types import Inputs, invoke

_MOST_INPUTS = 64  # of one layer

_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)


def inner_module(module: Any) -> Any:
    """What data-parallel, averaging and compile wrappers stand around, found without changing any."""
    while True:
        inner = module.module if isinstance(module, _WRAPPERS) else getattr(module, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def unwrapped(module: Any, what: str) -> nn.Module:
    """The module inside data-parallel, averaging and compile wrappers; compiled children give way to plain ones.

    Args:
        module: what a factory returned.
        what: how to call it in errors.
    Raises:
        InputError: if there is no module to change.
    """
    module = inner_module(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(f"{what}: a TorchScript module cannot be changed; return the nn.Module it was made from")
    if not isinstance(module, nn.Module):
        raise InputError(f"{what}: the factory returned a {type(module).__name__}, not an nn.Module")
    for owner in module.modules():
        if isinstance(owner, torch.jit.ScriptModule):
            continue
        owner._compiled_call_impl = None  # set by module.compile()
        for name, child in owner._modules.items():
            original = getattr(child, "_orig_mod", None)
            if isinstance(original, nn.Module):
                owner._modules[name] = original
    return module


def _may_be_lazy(layer: nn.Module) -> bool:
    return isinstance(layer, LazyModuleMixin)


def is_lazy(module: nn.Module) -> bool:
    """Whether any layer of a module still waits for its first input to know its shape."""
    return any(
        isinstance(layer, LazyModuleMixin) and layer.has_uninitialized_params()  # type: ignore[misc]  # torch's protocol
        for layer in _own(module)
    )


@torch.no_grad()
def materialize(root: nn.Module, example: Inputs | None, what: str) -> list[dict[str, Any]]:
    """Give lazy layers the shapes that an example makes, in place.

    Args:
        root: a module in eval mode.
        example: inputs that the module accepts.
        what: how to call the model in errors.
    Returns:
        The edits that do the same to a freshly built module.
    Raises:
        InputError: if there is no example, or a lazy layer does not run on it.
    """
    if not is_lazy(root):
        return []
    if example is None:
        raise InputError(f"{what}: its lazy layers take their shapes from an example; give --input, e.g. 3,224,224")
    lazy = {path: layer for path, layer in root.named_modules() if _may_be_lazy(layer)}
    edits: list[dict[str, Any]] = []

    def record(path: str):
        def hook(layer: nn.Module, inputs: tuple) -> None:
            if any(edit["target"] == path for edit in edits):
                return
            shapes = [list(value.shape) for value in inputs if isinstance(value, Tensor)]
            edits.append({"op": "materialize", "target": path, "inputs": shapes})

        return hook

    hooks = [layer.register_forward_pre_hook(record(path), prepend=True) for path, layer in lazy.items()]
    try:
        invoke(root, example)
    except Exception as error:
        raise InputError(f"{what} does not run on its example input: {type(error).__name__}: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    unused = [path for path, layer in lazy.items() if is_lazy(layer)]
    if unused:
        raise InputError(f"{what}: lazy layer {unused[0]!r} does not run on the example input, so it has no shape")
    return edits


def _is_lazy_layer(layer: nn.Module) -> bool:
    return isinstance(layer, LazyModuleMixin)


class MaterializeRecord(EditRecord):
    """Shapes of the inputs that a lazy layer is called with."""

    inputs: Annotated[list[Shape], Field(max_length=_MOST_INPUTS)]


@reads(MaterializeRecord)
def replay_materialize(root: nn.Module, edit: Mapping[str, Any]) -> None:
    """{op, target, inputs: [[ints]]}: a lazy layer takes the shapes that inputs of these shapes give it."""
    layer: Any = get_module(root, edit["target"])
    if not _is_lazy_layer(layer) or not layer.has_uninitialized_params():
        raise InputError("not a lazy layer")
    device = device_of(layer)
    inputs = tuple(torch.empty([int(size) for size in shape], device=device) for shape in edit["inputs"])
    layer._infer_parameters(layer, inputs)


def _own(module: nn.Module):
    return (layer for layer in module.modules() if not isinstance(layer, torch.jit.ScriptModule))
