"""Where a module came from, kept with it, so that what a user's own loop trained can be saved as an artifact again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import CompresskitError, InputError, described
from ..core.tensors.copying import copy_module
from ..core.tensors.modules import evaluating
from ..core.types import Inputs, Loaded, call
from ..model.example_inputs import with_batch
from ..model.plain_weights import computed_tensors, fold_checked
from ..model.wrappers import inner_module, unwrapped
from . import artifact
from .edits import replay
from .source import load_model

_ATTRIBUTE = "_compresskit_origin"  # a plain attribute: a deep copy takes it along, a state_dict does not


@dataclass(frozen=True)
class Origin:
    """What a module was loaded as.

    Attributes:
        record: source, edits, storage, example and preprocessing; its module is a placeholder.
        layers: paths of all submodules.
        shapes: shape of every parameter and buffer, by name.
    """

    record: Loaded
    layers: frozenset[str]
    shapes: dict[str, tuple[int, ...]]

    def __deepcopy__(self, memo: dict) -> Origin:
        return self  # never changed


def remember(loaded: Loaded) -> nn.Module:
    """The module, which knows from now on where it came from; so do its copies and what wraps it."""
    setattr(loaded.module, _ATTRIBUTE, origin_of(loaded))
    return loaded.module


def known_origin(module: nn.Module) -> Origin | None:
    """Where a module came from, if that was remembered."""
    found = getattr(module, _ATTRIBUTE, None)
    return found if isinstance(found, Origin) else None


def origin_of(loaded: Loaded) -> Origin:
    """The origin to remember of a loaded model."""
    record = replace(loaded, module=nn.Identity(), edits=list(loaded.edits), storage=dict(loaded.storage))
    return Origin(record, frozenset(_layers(loaded.module)), _shapes(loaded.module))


def named_origin(source: str, module: nn.Module, example: Inputs | None, **options: Any) -> Origin:
    """The origin of a module whose source is named: with the edits that it remembers, where the source builds what was
    edited.

    Args:
        source: the model string.
        module: what is to be saved, without wrappers.
        example: inputs that it takes; None takes the source's.
        options: of `source`, as `load_model` takes them.
    """
    known = known_origin(module)
    if known is not None and known.record.edits:
        loaded = load_model(source, example=example, **options)
        begun, edits = len(loaded.edits), known.record.edits
        if begun < len(edits) and edits[:begun] == loaded.edits:
            try:
                replay(loaded.module, edits[begun:])
            except CompresskitError:  # it builds another model, which the message on its shapes will say
                pass
            else:
                return origin_of(replace(loaded, edits=edits, storage=known.record.storage))
    return origin_of(load_model(source, example=example, **options))


def loaded_again(module: nn.Module, origin: Origin, example: Inputs | None = None) -> Loaded:
    """A module as its origin describes it, the module's own weights in it.

    Args:
        module: without wrappers, in eval mode; other weights, but no other layers or shapes than its origin's.
        origin: where it came from.
        example: inputs in the place of the origin's.
    Raises:
        InputError: if there is no example, or the module is not what its source and edits make.
    """
    record = origin.record
    loaded = replace(record, module=module, edits=list(record.edits), storage=dict(record.storage), notes=[])
    if example is not None:
        loaded = replace(loaded, example=with_batch(example, 1))
    if loaded.example is None:
        raise InputError(
            f"model {loaded.name!r}: its input shape is unknown; give example, e.g. torch.zeros(1, 3, 8, 8)"
        )
    loaded = _plain(loaded)
    _check_unchanged(loaded.module, origin)
    _check_forward(loaded)
    return loaded


def save_module(
    module: nn.Module,
    folder: str | Path,
    *,
    source: str | None = None,
    example: Inputs | None = None,
    force: bool = False,
    **options: Any,
) -> int:
    """Write a module as an artifact: one that `compresskit.load` returned and that was trained, or any with a source.

    Args:
        module: its weights are saved; wrappers of torch.compile, DataParallel, DistributedDataParallel and
            AveragedModel are looked through. It is left as it is.
        folder: the directory to create.
        source: the model string that builds the module (its weights left aside); None takes what it was loaded from.
        example: inputs that the module takes; None takes those of the source.
        force: replace an artifact that is there.
        options: of `source`, as `load_model` takes them: model_args, inputs, trust_source.
    Returns:
        Size of the weights file in bytes.
    Raises:
        InputError: if the source is unknown, the module is not what the source builds any more, or a weight is NaN.
    """
    module = inner_module(module)
    if options and not source:
        raise InputError(f"{', '.join(options)} would be ignored: name source too")
    origin = named_origin(source, module, example, **options) if source else known_origin(module)
    if origin is None:
        raise InputError(
            f"this {type(module).__name__} was not loaded by compresskit.load; name what builds it, "
            "e.g. source='path/net.py:factory'"
        )
    with evaluating(module):
        loaded = loaded_again(module, origin, example)
        try:
            return artifact.save(loaded, folder, force=force, provenance={"saved_by": "compresskit.save"})
        except artifact.ProbeMismatch as error:
            raise InputError(
                f"model {loaded.name!r} computes something else than its source with the same weights; undo what was "
                "changed in it by hand, or change the source alike"
            ) from error


def _plain(loaded: Loaded) -> Loaded:
    """The model with plain weights and layers, as loading leaves it: a copy where training made others of them."""
    layers = list(loaded.module.modules())
    if not any(isinstance(getattr(layer, "_orig_mod", None), nn.Module) or computed_tensors(layer) for layer in layers):
        return loaded
    _check_forward(loaded)  # leaves computed weights without a gradient, which have no copy
    module = unwrapped(copy_module(loaded.module), f"model {loaded.name!r}").eval()
    fold_checked(module, loaded.example)
    return replace(loaded, module=module)


def _layers(module: nn.Module) -> Iterator[str]:
    return (name for name, _ in module.named_modules(remove_duplicate=False) if name)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def _check_unchanged(module: nn.Module, origin: Origin) -> None:
    """Refuse a module with other layers or shapes than its source and edits make."""
    name, layers, shapes = origin.record.name, frozenset(_layers(module)), _shapes(module)
    changes = [
        ("has a layer", min(layers - origin.layers, default=None), "that its source does not build"),
        ("lacks layer", min(origin.layers - layers, default=None), "of its source"),
        ("has a tensor", min(shapes.keys() - origin.shapes.keys(), default=None), "that its source does not make"),
        ("lacks tensor", min(origin.shapes.keys() - shapes.keys(), default=None), "of its source"),
    ]
    for what, changed, why in changes:
        if changed is not None:
            raise InputError(f"model {name!r} {what} {changed!r} {why}: it was changed by hand; name another source")
    for tensor, shape in shapes.items():
        if shape != origin.shapes[tensor]:
            raise InputError(
                f"model {name!r}: {tensor} has shape {list(shape)}, its source and edits make it "
                f"{list(origin.shapes[tensor])}; cut with compresskit prune, which writes down what it cuts"
            )


@torch.no_grad()
def _check_forward(loaded: Loaded) -> None:
    try:
        call(loaded.module.eval(), loaded.example)
    except CompresskitError:
        raise
    except Exception as error:  # anybody's code
        raise InputError(
            f"model {loaded.name!r} does not take its example input: {described(error)}; give another with example"
        ) from error
