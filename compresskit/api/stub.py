"""The stub `compresskit/__init__.pyi`, from which type checkers and editors read the verbs' signatures.

Made by `compresskit schema --stub`; a test compares it with the file.
"""

from __future__ import annotations

from typing import Any

from .signatures import Parameter, quoted
from .verbs import VERBS, described, keywords_of

_HEADER = """\
# Made by `compresskit schema --stub > compresskit/__init__.pyi`: change the options models, not this file.
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from .api.models import load as load, save as save
from .api.result import Result as Result
from .api.types import Data, Example, Model, Progress
from .core.errors import CompresskitError as CompresskitError, GuardMissed as GuardMissed, InputError as InputError
from .pipeline.measurement import Measurement as Measurement

__version__: str
"""
_WIDTH = 120


def stub_text() -> str:
    """The whole stub."""
    return "\n".join([_HEADER, *(_function(verb) for verb in VERBS)])


def _function(verb: str) -> str:
    summary, first, returns, _ = described(verb)
    lines = [f"def {verb}(", f"    {first.name}: {first.annotation},", "    *,"]
    for one in keywords_of(verb):
        lines += _keyword(one)
    return "\n".join([*lines, f") -> {returns}:", f'    """{summary}"""', ""])


def _keyword(one: Parameter) -> list[str]:
    before, after = f"    {one.name}: ", f"{_default(one.default)},"
    if len(before + one.annotation + after) <= _WIDTH:
        return [before + one.annotation + after]
    lines = _broken_union(one.annotation, before, "    ")
    return [*lines[:-1], lines[-1] + after]


def _broken_union(annotation: str, before: str, indent: str) -> list[str]:
    first, *rest = _members(annotation)
    lines = _broken(first, before, indent)
    return [*lines, *(line for part in rest for line in _broken(part, f"{indent}| ", indent))]


def _members(annotation: str) -> list[str]:
    """The members of a union, not those of unions inside of brackets."""
    members = [""]
    for part in annotation.split(" | "):
        open_bracket = members[-1].count("[") > members[-1].count("]")
        if open_bracket:
            members[-1] += f" | {part}"
        else:
            members.append(part)
    return members[1:]


def _broken(part: str, before: str, indent: str) -> list[str]:
    """A type over several lines, a name of a table on each, as formatters write it."""
    head, bracket, inner = part.partition("[")
    fits = head == "Mapping" and len(before + part) <= _WIDTH  # its two types are no union that could be broken
    if not bracket or head == "Callable" or fits:
        return [before + part]
    inner = inner.removesuffix("]")
    if head == "Literal":
        lines = [f"{indent}    {name}," for name in inner.split(", ")]
    elif head == "Mapping":
        key, _, value = inner.partition(", ")
        lines = [f"{indent}    {key},", *_broken_union(value, f"{indent}    ", f"{indent}    ")]
        lines[-1] += ","
    else:
        lines = _broken_union(inner, f"{indent}    ", f"{indent}    ")
    return [f"{before}{head}[", *lines, f"{indent}]"]


def _default(value: Any) -> str:
    if value is ...:
        return ""
    plain = value is None or isinstance(value, bool | int | float | str)
    if not plain:
        return " = ..."
    return f" = {quoted(value)}"
