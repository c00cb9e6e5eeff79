"""Edits of what a transformers model keeps beside its modules: its configuration, and the numbers of its layers.

With them a model that was cut is what its own configuration builds, so `save_pretrained` writes a folder that
`from_pretrained` loads, and caches of generation fit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from ..core.errors import InputError
from ..core.manifest.edit_records import EditRecord, Integer, Name, reads
from ..core.tensors.modules import get_module
from ..model.libraries.geometry import PLACES, at, settings_of
from .skips import PassThrough

_MOST_ENTRIES = 4096
_Number = Integer | Annotated[float, Field(gt=0, le=1 << 20)]
_Entry = _Number | Annotated[str, Field(max_length=64)]


class ConfigRecord(EditRecord):
    """New values of a configuration, by dotted key: numbers, and lists of numbers and of words that it holds."""

    values: Annotated[
        dict[Name, _Number | Annotated[list[_Entry], Field(max_length=_MOST_ENTRIES)]], Field(max_length=_MOST_ENTRIES)
    ]


class RenumberRecord(EditRecord):
    """Nothing but the target."""


def config_edit(module: nn.Module, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The edit that gives a model's configuration new settings; none where it has them."""
    values = dict(_changes(settings_of(module.config), settings))
    return [{"op": "config", "target": "", "values": values}] if values else []


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in new.items():
        if isinstance(value, Mapping):
            if isinstance(old.get(key), Mapping):
                found += _changes(old[key], value, f"{prefix}{key}.")
        elif old.get(key) != value:
            found.append((f"{prefix}{key}", value))
    return found


@reads(ConfigRecord)
def replay_config(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op: config, target: "", values: {key: number or list}}: settings of a transformers configuration.

    Copies of the configuration that parts of the model hold follow where they agreed with it.

    Raises:
        InputError: if the model has no configuration, or a value is of another kind than the one that is there.
    """
    config = getattr(root, "config", None)
    if config is None or not hasattr(config, "to_json_string"):
        raise InputError("the model has no transformers configuration")
    for key, value in edit["values"].items():
        *owners, name = key.split(".")
        owner = config
        for part in owners:
            owner = getattr(owner, part, None)
            if owner is None or not hasattr(owner, "to_json_string"):
                raise InputError(f"the configuration has no {key!r}")
        old = at(settings_of(config), (*owners, name))
        _check(key, old, value)
        for copied in _copies(root, owner):
            if getattr(copied, name, None) == getattr(owner, name, None):
                setattr(copied, name, value)
        setattr(owner, name, value)


def _check(key: str, old: Any, value: Any) -> None:
    """Raises InputError unless a value is of the kind that stands there: numbers for numbers, known words for words."""
    if isinstance(value, list):
        words = {entry for entry in value if isinstance(entry, str)}
        if not isinstance(old, list) or not words <= {entry for entry in old if isinstance(entry, str)}:
            raise InputError(f"the configuration's {key!r} is {str(old)[:60]}, which cannot become {str(value)[:60]}")
    elif old is not None and (isinstance(old, bool) or not isinstance(old, int | float)):
        raise InputError(f"the configuration's {key!r} is no number")


def _copies(root: nn.Module, owner: Any) -> list[Any]:
    """Configurations of the same class that modules hold beside the model's own."""
    held = {id(config): config for module in root.modules() if (config := getattr(module, "config", None)) is not None}
    return [config for config in held.values() if type(config) is type(owner) and config is not owner]


class UntieRecord(EditRecord):
    """Nothing but the target."""


@reads(UntieRecord)
def replay_untie(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op: untie, target}: a layer that shares its weight with another one gets a weight of its own.

    Raises:
        InputError: if the target has no weight, or the model's configuration does not say that it is shared.
    """
    layer, config = get_module(root, edit["target"]), getattr(root, "config", None)
    weight = layer._parameters.get("weight")
    if weight is None or not getattr(config, "tie_word_embeddings", False):
        raise InputError("no transformers configuration says that its weight is another layer's")
    layer.weight = nn.Parameter(torch.empty_like(weight), weight.requires_grad)
    for owner in [config, *_copies(root, config)]:
        vars(owner)["tie_word_embeddings"] = False


def lists_with_gaps(root: nn.Module) -> dict[str, list[int]]:
    """Lists of layers some of which pass their input through: path -> which of their layers do not."""
    return {
        path: [index for index, layer in enumerate(layers) if not isinstance(layer, PassThrough)]
        for path, layers in root.named_modules()
        if isinstance(layers, nn.ModuleList | nn.Sequential) and any(isinstance(layer, PassThrough) for layer in layers)
    }


def renumber_edits(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The edits that take skipped layers out of lists of layers."""
    return [{"op": "renumber", "target": path} for path in paths]


@reads(RenumberRecord)
def replay_renumber(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op: renumber, target}: the skipped layers of a list go, and the others take their places.

    Raises:
        InputError: if the target is no list of layers.
    """
    layers = get_module(root, edit["target"])
    if not isinstance(layers, nn.ModuleList | nn.Sequential):
        raise InputError(f"is a {type(layers).__name__}, not a list of layers")
    kept = [(old, layer) for old, layer in enumerate(layers) if not isinstance(layer, PassThrough)]
    for new, (old, layer) in enumerate(kept):
        for part in layer.modules():
            for name in PLACES:
                if vars(part).get(name) == old:
                    setattr(part, name, new)
    layers._modules = OrderedDict((str(new), layer) for new, (_, layer) in enumerate(kept))
