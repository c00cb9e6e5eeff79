"""What one setting of a transformers configuration counts (experts, tokens), and keeping some of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...artifact.edits import set_attribute
from ...core.errors import InputError
from ...core.tensors.modules import get_module, tensor_of
from ...model.libraries.geometry import Fact, Field, Geometry


@dataclass(frozen=True)
class Counted:
    """What a setting counts in a part of a model.

    Attributes:
        count: how many there are.
        tensors: (name, dimension) of what has an entry for each.
        attributes: (module, name) of integers that count them.
    """

    count: int
    tensors: Sequence[tuple[str, int]]
    attributes: Sequence[tuple[str, str]]


def deciding(geometry: Geometry, sizes: Sequence[tuple[str, int]]) -> Field | None:
    """The one setting that decides sizes, (name of a tensor, dimension) each; None where several or none do."""
    settings = {setting for name, dim in sizes for setting in geometry.deciders.get(Fact("size", name, "", dim), ())}
    return settings.pop() if len(settings) == 1 else None


def counted_by(geometry: Geometry, setting: Field, part: str = "") -> Counted:
    """What a setting counts in a part of a model, or in all of it.

    Raises:
        InputError: if not all of it has as many entries.
    """
    own = [fact for fact in geometry.fields[setting] if not part or f"{fact.path}.".startswith(f"{part}.")]
    tensors = [(fact.path, fact.place) for fact in own if fact.kind == "size"]
    attributes = [(fact.path, fact.name) for fact in own if fact.kind == "attribute"]
    counts = {geometry.facts[Fact("size", path, "", dim)] for path, dim in tensors}
    name = ".".join(map(str, setting))
    if any(geometry.fields[setting][fact] != 1 for fact in own if fact.kind == "size") or len(counts) != 1:
        raise InputError(f"{part or 'the model'}: what {name} counts has not one entry for each ({sorted(counts)})")
    return Counted(counts.pop(), tensors, attributes)


@torch.no_grad()
def take(root: nn.Module, counted: Counted, chosen: Tensor) -> list[dict[str, Any]]:
    """Keep the chosen entries, in that order; tied tensors stay tied. Returns the edits."""
    shapes: dict[str, dict[str, list[int]]] = defaultdict(dict)
    taken: dict[tuple[int, int], Tensor] = {}
    for path, dim in counted.tensors:
        owner, _, name = path.rpartition(".")
        module = get_module(root, owner)
        old = tensor_of(module, name)
        key = id(old), dim
        if key not in taken:
            value = old.data.index_select(dim, chosen.to(old.device))
            taken[key] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        setattr(module, name, taken[key])
        shapes[owner][name] = list(taken[key].shape)
    attributes: dict[str, dict[str, int]] = defaultdict(dict)
    for owner, name in counted.attributes:
        set_attribute(get_module(root, owner), name, len(chosen))
        attributes[owner][name] = len(chosen)
    return [
        {"op": "resize", "target": owner, "shapes": shapes.get(owner, {}), "attributes": attributes.get(owner, {})}
        for owner in sorted({*shapes, *attributes})
    ]
