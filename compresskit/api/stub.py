"""The stub `compresskit/__init__.pyi`, from which type checkers and editors read the verbs' signatures.

Made by `compresskit schema --stub`; a test compares it with the file.
"""

from __future__ import annotations

import textwrap
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
_WIDTH = 116


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
    line = f"{one.name}: {one.annotation}{_default(one.default)},"
    if len(line) <= _WIDTH:
        return [f"    {line}"]
    # a long Literal goes over several lines inside its brackets
    before, bracket, rest = line.partition("[")
    inner, _, after = rest.rpartition("]")
    wrapped = textwrap.wrap(inner, _WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return [f"    {before}{bracket}", *(f"        {part}" for part in wrapped), f"    ]{after}"]


def _default(value: Any) -> str:
    if value is ...:
        return ""
    plain = value is None or isinstance(value, bool | int | float | str)
    if not plain:
        return " = ..."
    return f" = {quoted(value)}"
