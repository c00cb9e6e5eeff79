"""Names of a program's inputs and outputs, and outputs put back into the model's own structure."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...core.types import children

_ONLY = "output"


def named_tensors(outputs: Any) -> dict[str, Tensor]:
    """The tensors in a structure of outputs: keys of mappings and fields of dataclasses name them.

    A tensor alone is `output`; those of a sequence are `output`, `output_1` and so on; what is nested joins the names
    on the way to it: `{"boxes": (a, b)}` -> `boxes_0`, `boxes_1`.

    Args:
        outputs: whatever a model returned; what is no tensor goes unnamed.
    """
    if isinstance(outputs, Tensor):
        return {_ONLY: outputs}
    found: dict[str, Tensor] = {}
    sequence = isinstance(outputs, tuple | list) and not hasattr(outputs, "_fields")
    names = getattr(outputs, "_fields", None)
    for position, (key, value) in enumerate(children(outputs)):
        if names:
            key = names[position]
        elif sequence:
            key = _ONLY if position == 0 else f"{_ONLY}_{position}"
        _collect(key, value, found)
    return found


def _collect(name: str, value: Any, found: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        while name in found:  # {"a": (x,), "a_0": y}
            name += "_"
        found[name] = value
        return
    for key, inner in children(value):
        _collect(f"{name}_{key}", inner, found)


def register_dataclasses(outputs: Any) -> None:
    """Tell torch.export of the dataclasses in a structure of outputs that it does not know yet."""
    if isinstance(outputs, Tensor):
        return
    kind = type(outputs)
    if is_dataclass(outputs) and kind not in pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(kind, serialized_type_name=f"{kind.__module__}.{kind.__qualname__}")
    for _, value in children(outputs):
        register_dataclasses(value)


def input_names(program: torch.export.ExportedProgram) -> list[str]:
    """The name of each tensor that a program takes: forward's parameters, and keys as they were given."""
    names = [str(name) for name in program.graph_signature.user_inputs]
    spec = program.call_spec.in_spec
    keywords = spec.children()[1] if spec is not None and spec.num_children == 2 else None
    if keywords is None or keywords.num_leaves != keywords.num_children:  # a keyword that holds several tensors
        return names
    return [*names[: len(names) - keywords.num_children], *map(str, keywords.context)]


def output_names(program: torch.export.ExportedProgram) -> list[str]:
    """The name of each tensor that a program returns, in its order."""
    constants = _constants(program)
    marks = [torch.tensor(float(place)) if is_tensor else None for place, (is_tensor, _) in enumerate(constants)]
    spec = program.call_spec.out_spec
    named = named_tensors(marks if spec is None else pytree.tree_unflatten(marks, spec))
    by_place = {int(mark): name for name, mark in named.items()}
    places = [place for place, mark in enumerate(marks) if mark is not None]
    return [by_place.get(place, f"{_ONLY}_{place}") for place in places]


def restored(program: torch.export.ExportedProgram, tensors: list[Tensor]) -> Any:
    """The tensors that a program returned in a runtime, in the structure that the model returns them in."""
    constants = _constants(program)
    spec = program.call_spec.out_spec
    if spec is None or sum(is_tensor for is_tensor, _ in constants) != len(tensors):  # the writer left some out
        return tensors[0] if len(tensors) == 1 else tuple(tensors)
    remaining = iter(tensors)
    leaves = [next(remaining) if is_tensor else value for is_tensor, value in constants]
    return pytree.tree_unflatten(leaves, spec)


def _constants(program: torch.export.ExportedProgram) -> list[tuple[bool, Any]]:
    """Of each leaf of the outputs: whether it is a tensor, and what it is where it is none."""
    kind = torch.export.graph_signature.OutputKind.USER_OUTPUT
    arguments = [spec.arg for spec in program.graph_signature.output_specs if spec.kind == kind]
    constant = torch.export.graph_signature.ConstantArgument
    return [(not isinstance(one, constant), getattr(one, "value", None)) for one in arguments]
