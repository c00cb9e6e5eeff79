"""Cutting: every tensor loses the positions whose ids go, attributes follow, and edits record the final geometry."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import nn

from ...core.reporting.phases import phase
from ...core.tensors.modules import get_module, tensor_of
from ..dependency.graph import Graph
from ..dependency.symbolic_int import AttributeKey

#: attributes that describe a layer's geometry, as functions of its tensors; they follow by themselves
_DESCRIPTIONS = {
    "in_features": lambda m: m.weight.shape[1],
    "out_features": lambda m: m.weight.shape[0],
    "num_features": lambda m: m.weight.shape[0],
    "num_channels": lambda m: m.weight.shape[0],
    "num_parameters": lambda m: m.weight.shape[0],
    "embedding_dim": lambda m: m.weight.shape[1],
    "nx": lambda m: m.weight.shape[0],
    "nf": lambda m: m.weight.shape[1],
}


class NotExpressible(ValueError):
    """What should stay does not fit the numbers that a forward pass computes with; `counts` cannot hold."""

    def __init__(self, counts: list):
        super().__init__("; ".join(sorted({count.site for count in counts})))
        self.counts = counts


@phase("cut")
def cut(
    module: nn.Module, graph: Graph, keep: np.ndarray, tensors: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Cut a model in place.

    Args:
        module: the traced model, or a copy of it.
        graph: its graph.
        keep: which ids stay, (ids,) bool.
        tensors: replaces the values of tensors (by any of their names) before cutting.
    Returns:
        edits of final geometry, one a changed module.
    Raises:
        NotExpressible: if no attribute values fit what stays.
    """
    if graph.solver is None:
        raise TypeError("a graph without a solver cannot be cut")
    values, violated = graph.solver.solve(keep)
    if violated:
        raise NotExpressible(violated)
    shapes: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for stored in graph.trace.stored.values():
        masks = [keep[ids.numpy()] for ids in stored.ids]
        if all(mask.all() for mask in masks):
            continue
        owner, _, name = stored.names[0].rpartition(".")
        old = getattr(get_module(module, owner), name)
        value = _sliced(old.data, masks)
        new = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        for full in stored.names:
            path, _, name = full.rpartition(".")
            setattr(get_module(module, path), name, new)  # setattr, so that recurrent layers see it
            shapes[path][name] = list(new.shape)
    attributes = _changed(graph, values)
    for path, found in attributes.items():
        _set(get_module(module, path), found)
    for path in shapes:
        described = _described(get_module(module, path))
        _set(get_module(module, path), described)
        attributes[path] |= described
    return [
        {"op": "resize", "target": path, "shapes": shapes.get(path, {}), "attributes": attributes.get(path, {})}
        for path in sorted({*shapes, *attributes})
        if shapes.get(path) or attributes.get(path)
    ]


def _set(module: nn.Module, attributes: dict[str, Any]) -> None:
    for name, value in attributes.items():
        setattr(module, name, tuple(value) if isinstance(getattr(module, name), tuple) else copy.copy(value))


def _sliced(tensor: torch.Tensor, masks: list[np.ndarray]) -> torch.Tensor:
    for dim, mask in enumerate(masks):
        if not mask.all():
            tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(mask)).to(tensor.device))
    return tensor.contiguous().clone()


def _changed(graph: Graph, values: dict[AttributeKey, int]) -> dict[str, dict[str, Any]]:
    """Attributes whose value changed; tuples whole."""
    original = graph.trace.values
    changed: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in values.items():
        if value == original[key]:
            continue
        if key.entry is None:
            changed[key.path][key.name] = value
            continue
        if key.name not in changed[key.path]:
            items = [k for k in original if k.path == key.path and k.name == key.name]
            changed[key.path][key.name] = [original[k] for k in sorted(items, key=lambda k: k.entry or 0)]
        changed[key.path][key.name][key.entry] = value
    return changed


def _described(module: nn.Module) -> dict[str, Any]:
    """Values of the descriptive attributes of a layer whose tensors changed shape."""
    found: dict[str, Any] = {}
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.RNNBase):
        sizes = {"input_size": tensor_of(module, "weight_ih_l0").shape[1]}
        if not module.proj_size:
            sizes["hidden_size"] = tensor_of(module, "weight_hh_l0").shape[1]
        return {name: size for name, size in sizes.items() if getattr(module, name) != size}
    if isinstance(module, nn.RNNCellBase):
        sizes = {"input_size": module.weight_ih.shape[1], "hidden_size": module.weight_hh.shape[1]}
        return {name: size for name, size in sizes.items() if getattr(module, name) != size}
    if weight is None:
        return found
    for name, function in _DESCRIPTIONS.items():
        if type(getattr(module, name, None)) is int and weight.dim() > (
            1 if name in ("in_features", "embedding_dim", "nf") else 0
        ):
            value = int(function(module))
            if value != getattr(module, name):
                found[name] = value
    if type(getattr(module, "groups", None)) is int and type(getattr(module, "in_channels", None)) is int:
        made, read = (1, 0) if getattr(module, "transposed", False) else (0, 1)
        wide = [weight.shape[0], weight.shape[1]]
        wide[1] *= module.groups
        found |= {
            name: wide[d]
            for name, d in (("in_channels", read), ("out_channels", made))
            if getattr(module, name) != wide[d]
        }
    return found
