"""A module that a Python session holds as a loaded model: what builds it again is found, or the module itself is kept.

Tried in order: where it was loaded from (`artifact.origin`), what its caller names, the description that a library's
model carries, its own class where that takes no arguments, and at last a copy of the module
(`in_memory.MemorySource`), which whoever loads the artifact gives again.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ..core.errors import CompresskitError, InputError
from ..core.tensors.copying import copy_module
from ..core.tensors.devices import device_of
from ..core.tensors.dtypes import model_dtype
from ..core.types import Inputs, Loaded, or_later
from ..core.user_code.in_memory import MemorySource
from ..model.builders import own_example, preprocessing_of
from ..model.checkpoints.weights import check_module
from ..model.example_inputs import with_batch, with_floating
from ..model.forward_check import check_state
from ..model.plain_weights import fold_checked
from ..model.wrappers import inner_module, materialize, unwrapped
from .origin import known_origin, loaded_again, named_origin
from .rebuilding import check_rebuild

_NO_PLACE = ("__main__", "__mp_main__", "builtins")  # modules that another process does not import


def loaded_from(
    module: nn.Module, *, example: Inputs | None = None, source: str | None = None, **options: Any
) -> Loaded:
    """A copy of a module as a loaded model, in eval mode on the CPU; the module is left as it is.

    Args:
        module: any module; wrappers of torch.compile, DataParallel and the like are looked through.
        example: inputs that it takes, of any batch size; None takes its own (`example_inputs`, `input_shape`), or
            leaves it to the data.
        source: the model string that builds it; None finds out.
        options: of `source`, as `load_model` takes them: model_args, trust_source.
    Raises:
        InputError: if the module cannot be changed, or is not what its source builds.
    """
    what = f"model {type(module).__name__!r}"
    inner = inner_module(module)
    origin = named_origin(source, inner, example, **options) if source else known_origin(inner)
    if options and not source:
        raise InputError(f"{', '.join(options)} would be ignored: name source too")
    own = unwrapped(copy_module(inner), what).eval()
    check_state(own, what)
    own.to("cpu")
    if origin is not None:
        return loaded_again(own, origin, example)
    if example is None:
        example = own_example(own)
    if example is not None:
        example = with_floating(with_batch(example, 1), model_dtype(own))
    loaded = Loaded(own, {}, or_later(example), preprocessing=preprocessing_of(own), name=type(own).__name__)
    loaded.source = _source(loaded)
    loaded.edits = materialize(own, example, what)
    folded, lines = fold_checked(own, example)
    loaded.edits += folded
    check_module(own, what)
    loaded.notes = lines
    return loaded


def on_device_of(module: nn.Module, like: nn.Module | None) -> nn.Module:
    """A module moved to where another one lies; to the CPU without one."""
    return module.to(device_of(like) if like is not None else "cpu")


def _source(loaded: Loaded) -> dict[str, Any]:
    """The record of what builds a module: the first that builds one computing the same, else the module itself."""
    kept = MemorySource(copy_module(loaded.module))
    if loaded.example is None:
        return kept
    for record in _candidates(loaded.module):
        attempt = Loaded(copy_module(loaded.module), record, loaded.example, name=loaded.name)
        try:
            attempt.edits = materialize(attempt.module, attempt.example, loaded.name)
            attempt.edits += fold_checked(attempt.module, attempt.example)[0]
            check_rebuild(attempt)
        except CompresskitError:  # it builds something else
            continue
        return record
    return kept


def _candidates(module: nn.Module) -> Iterator[dict[str, Any]]:
    place, name = type(module).__module__, type(module).__qualname__
    if place.startswith("transformers.models."):
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "to_json_string"):
            label = Path(str(getattr(config, "name_or_path", "") or "")).name or name
            content = json.loads(config.to_json_string(use_diff=False))
            yield {"kind": "hf", "name": label, "class": name, "config": content, "carried": True}
        return
    if place.startswith("timm.models."):
        architecture = (getattr(module, "pretrained_cfg", None) or {}).get("architecture")
        classes = getattr(module, "num_classes", None)
        if isinstance(architecture, str):
            yield {"kind": "timm", "name": architecture, "args": {}}
            if isinstance(classes, int):
                yield {"kind": "timm", "name": architecture, "args": {"num_classes": classes}}
        return
    if place not in _NO_PLACE and not place.startswith("torch.") and _builds_alone(type(module)):
        yield {"kind": "module", "module": place, "factory": name, "args": {}}


def _builds_alone(kind: type[nn.Module]) -> bool:
    """Whether a class is found by its name in its module, and takes no arguments."""
    home = sys.modules.get(kind.__module__)
    if home is None or getattr(home, kind.__qualname__, None) is not kind:
        return False
    try:
        inspect.signature(kind).bind()
    except (TypeError, ValueError):
        return False
    return True
