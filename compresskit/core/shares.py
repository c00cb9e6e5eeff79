"""Shares of a whole as options take them: 0.5 or 50%, the same everywhere. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_PERCENT = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*%\s*")
_PERCENT_SCHEMA = {"type": "string", "pattern": r"^\s*(\d+\.?\d*|\.\d+)\s*%\s*$"}


def read_share(given: Any) -> Any:
    """A share as a number; what is no number and no percentage is returned as it is.

    Raises:
        ValueError: if it is a number of percent without the sign.
    """
    if isinstance(given, str):
        percent = _PERCENT.fullmatch(given)
        if percent is not None:
            return float(percent[1]) / 100
    try:
        number = float(given) if isinstance(given, str | int | float) and not isinstance(given, bool) else 0.0
    except ValueError:
        return given
    if 2 <= number <= 100:  # between them it is more likely meant as it stands
        raise ValueError(f"is a share of at most 1, got {number:g}; did you mean {number / 100:g} or {number:g}%?")
    return given


class _IsShare:
    """Marks a number as a share: its schema takes percentages, too, and its flag text."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), _PERCENT_SCHEMA]}


#: the type of an option that is a share of something; limits stand in its `option(...)`
Share = Annotated[float, BeforeValidator(read_share), _IsShare()]


def is_share(annotation: Any, metadata: Sequence[Any] = ()) -> bool:
    """Whether an annotated type holds a share, wherever in it (`list[Share] | None`).

    Args:
        annotation: a field's type.
        metadata: what stood beside it, which pydantic keeps apart.
    """
    beside = (*metadata, *getattr(annotation, "__metadata__", ()))
    return any(isinstance(item, _IsShare) for item in beside) or any(map(is_share, get_args(annotation)))
