"""What an edit of a manifest may say: one typed record an op, checked before anything is built.

A record stands beside the function that replays it:

    class SkipRecord(EditRecord):
        as_tuple: Flag

    @reads(SkipRecord)
    def replay(root, edit): ...
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Function = TypeVar("Function", bound=Callable[..., Any])

LONGEST_NAME = 4096  # characters of a dotted path
LARGEST_SIZE = 1 << 40  # of one dimension or integer attribute
LARGEST_TENSOR = 1 << 38  # elements; a terabyte of float32
MOST_DIMENSIONS = 32

Name = Annotated[str, Field(max_length=LONGEST_NAME)]
Size = Annotated[int, Field(ge=0, le=LARGEST_SIZE)]
Integer = Annotated[int, Field(ge=-LARGEST_SIZE, le=LARGEST_SIZE)]
Flag = Annotated[int, Field(ge=0, le=1)]


def _not_enormous(shape: list[int]) -> list[int]:
    if math.prod(shape) > LARGEST_TENSOR:
        raise ValueError(f"a tensor of {math.prod(shape):,} elements")
    return shape


Shape = Annotated[list[Size], Field(max_length=MOST_DIMENSIONS), AfterValidator(_not_enormous)]


class EditRecord(BaseModel):
    """An edit: its op, the dotted path of the module it changes, and the op's own keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    op: Name
    target: Name


def reads(record: type[EditRecord]) -> Callable[[Function], Function]:
    """Mark a replay function with the record of its edits."""

    def mark(function: Function) -> Function:
        vars(function)["record"] = record
        return function

    return mark


def explain(error: ValidationError) -> str:
    """What is wrong first, on one line: `shapes.weight.0: Input should be a valid integer, got 'x'`."""
    item = error.errors(include_url=False)[0]
    place = ".".join(map(str, item["loc"]))
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{place} is missing"
    shown = repr(item["input"])[:60] if isinstance(item["input"], str | int | float | bool | None) else ""
    return f"{place + ': ' if place else ''}{text}{f', got {shown}' if shown else ''}"


def as_record(edit: Any, record: type[EditRecord]) -> EditRecord:
    """An edit as its op's record.

    Raises:
        ValueError: with what is wrong, on one line.
    """
    try:
        return record.model_validate(edit)
    except ValidationError as error:
        raise ValueError(explain(error)) from None
