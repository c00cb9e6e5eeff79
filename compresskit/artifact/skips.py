"""Leaving a block out: which argument passes through it, and in what structure its callers expect it back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator
from torch import Tensor, nn

from ..core.manifest.edit_records import EditRecord, Flag, Name, reads
from ..core.tensors.modules import get_module, set_module

MOST_RETURNS = 64  # entries of what one block returns


class PassThrough(nn.Module):
    """Returns an argument as it came, in the structure that the block it stands for returned.

    Args:
        as_tuple: wrap the result in a tuple, for layers whose callers unpack one.
        block: what it stands for; plain attributes that callers read of it (`layer.attention_type`) stay.
        returns: what leaves, entry by entry: an argument by its name in the block's forward, or None for nothing.
            Without it, the first argument (or `hidden_states`) leaves alone.
    """

    def __init__(self, as_tuple: bool, block: nn.Module | None = None, returns: Sequence[str | None] | None = None):
        super().__init__()
        own = vars(self).keys()
        vars(self).update({key: value for key, value in vars(block or self).items() if key not in own})
        self.as_tuple = as_tuple
        self.skip_returns = None if returns is None else tuple(returns)
        self.skip_names = _parameter_names(block)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What `returns` names of the arguments."""
        if self.skip_returns is None:
            x = args[0] if args and args[0] is not None else kwargs.get("hidden_states")
            return (x,) if self.as_tuple else x
        given = named_arguments(self.skip_names, args, kwargs)
        left = tuple(None if name is None else given.get(name) for name in self.skip_returns)  # None where left out
        return left if self.as_tuple else left[0]


class SkipRecord(EditRecord):
    """Whether the block's callers unpack a tuple, and which arguments it holds."""

    as_tuple: Flag
    returns: Annotated[list[Name | None], Field(min_length=1, max_length=MOST_RETURNS)] | None = None

    @model_validator(mode="after")
    def _one_without_a_tuple(self) -> SkipRecord:
        if self.returns is not None and not self.as_tuple and (len(self.returns) > 1 or self.returns[0] is None):
            raise ValueError("returns names one argument where as_tuple is 0")
        return self


@reads(SkipRecord)
def replay(root: nn.Module, edit: dict[str, Any]) -> None:
    """{op: skip, target, as_tuple: 0 | 1, returns: [argument | null]}: a block passes its input through."""
    block = get_module(root, edit["target"])
    set_module(root, edit["target"], PassThrough(bool(edit["as_tuple"]), block, edit.get("returns")))


def skip_edit(
    name: str, block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
) -> dict[str, Any] | None:
    """The edit that leaves a block out, from one of its calls.

    The block's input is its first argument with the shape and type of the first tensor that it returns. Other entries
    that the block hands on as they came are handed on; what it computes itself becomes None.

    Returns:
        the edit, or None where no argument has the shape and type of the output.
    """
    entries = output if type(output) is tuple else (output,)
    main = next((place for place, entry in enumerate(entries) if isinstance(entry, Tensor)), None)
    given = named_arguments(_parameter_names(block), args, kwargs)
    if main is None:
        return None
    entered = next((key for key, x in given.items() if _alike(x, entries[main])), None)
    if entered is None:
        return None
    returns: list[str | None] = [_handed_on(entry, given) for entry in entries]
    returns[main] = entered
    edit: dict[str, Any] = {"op": "skip", "target": name, "as_tuple": int(isinstance(output, tuple))}
    first = given[entered] is args[0] if args else entered == "hidden_states"
    return edit if first and len(returns) == 1 else edit | {"returns": returns}


def passed(edit: Mapping[str, Any], block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any):
    """The tensor that enters a block and the one that leaves it in its place; (Tensor, Tensor)."""
    if "returns" not in edit:
        return (args[0] if args else kwargs["hidden_states"]), (output[0] if edit["as_tuple"] else output)
    entries = output if edit["as_tuple"] else (output,)
    place = next(place for place, entry in enumerate(entries) if isinstance(entry, Tensor))
    return named_arguments(_parameter_names(block), args, kwargs)[edit["returns"][place]], entries[place]


def named_arguments(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call by parameter; those without a name by their position ("0", "1", ...)."""
    return {names[place] if place < len(names) else str(place): x for place, x in enumerate(args)} | dict(kwargs)


def _parameter_names(block: nn.Module | None) -> tuple[str, ...]:
    if block is None:
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(block.forward).parameters
    except (TypeError, ValueError):  # written in another language
        return ()
    return tuple(name for name, parameter in parameters.items() if parameter.kind in positional)


def _alike(value: Any, out: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == out.shape and value.dtype == out.dtype


def _handed_on(entry: Any, given: Mapping[str, Any]) -> str | None:
    """The argument that an entry of the output is, if it is one."""
    return next((key for key, x in given.items() if isinstance(x, Tensor) and x is entry), None)
