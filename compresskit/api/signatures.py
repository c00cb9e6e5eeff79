"""Signatures and docstrings derived from the options models, which the command line and recipes read too.

Imports no torch: `help(compresskit.prune)` is quick, and the stub for type checkers comes from the same text.
"""

from __future__ import annotations

import inspect
import json
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from ..core.options import Choice, OptionGroup, Options, registry_of

#: what an option takes besides strings: the name of its type in `api.types`
_OBJECTS = {"model": "Model", "data": "Data", "function": "Callable[..., Any]", "row": "object"}
#: those that strings of a few names stand beside
_BESIDE_NAMES = (_OBJECTS["function"], _OBJECTS["row"])
_WIDTH = 110


@dataclass(frozen=True)
class Parameter:
    """One keyword of a verb.

    Attributes:
        name: as on the command line, without dashes.
        annotation: its type as text, in terms of `api.types`.
        default: its default value; `...` for a required one.
        help: one line.
    """

    name: str
    annotation: str
    default: Any
    help: str


def parameters_of(model: type[Options], leave_out: tuple[str, ...] = ()) -> Iterator[Parameter]:
    """A keyword for each field of an options model, those of the model itself before those of its bases."""
    own = inspect.get_annotations(model)
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] not in own):
        if name in leave_out:
            continue
        default = ... if field.is_required() else field.get_default(call_default_factory=True)
        text = annotation_text(field.annotation, field.metadata)
        taken = _OBJECTS.get(takes(field))
        yield Parameter(name, _with_object(text, taken) if taken else text, default, _help(field, default))


def takes(field: Any) -> str:
    """What an option takes in the place of a string: model, data, function, row (of a registry), or nothing ("")."""
    registry = registry_of(field.annotation, field.metadata)
    if registry is not None and registry.group:
        return "function" if registry.takes is not None else "row"
    return str((field.json_schema_extra or {}).get("takes", ""))


def is_list(annotation: Any) -> bool:
    """Whether an option takes several values, so that a lone one may stand for a list of one."""
    return get_origin(annotation) in (list, tuple)


def annotation_text(annotation: Any, metadata: Any = ()) -> str:
    """The type of an option as Python text: lists take a lone value too, tables are their names."""
    chosen = next((item for item in metadata if isinstance(item, Choice)), None)
    if chosen is not None and chosen.own_only:
        return f"str | {_OBJECTS['function']}"
    if chosen is not None:
        return f"Literal[{', '.join(map(quoted, chosen.registry))}]" + (" | str" if chosen.registry.group else "")
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return annotation_text(arguments[0], arguments[1:])
    if origin is Literal:
        return f"Literal[{', '.join(map(quoted, arguments))}]"
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(annotation_text(item) for item in arguments))
    if origin in (list, tuple):
        inner = annotation_text(arguments[0])
        return f"{inner} | Sequence[{inner}]"
    if origin is dict:
        return f"Mapping[{', '.join(map(annotation_text, arguments))}]"
    if annotation is type(None):
        return "None"
    if isinstance(annotation, type) and issubclass(annotation, OptionGroup):
        return f"{annotation_text(annotation.model_fields[annotation.short].annotation)} | Mapping[str, Any]"
    return getattr(annotation, "__name__", None) or str(annotation)


def quoted(value: Any) -> str:
    """A plain value as Python text, strings in double quotes."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def signature(first: Parameter, keywords: list[Parameter], returns: str) -> inspect.Signature:
    """The signature of a verb: one positional argument, then keywords."""
    parameters = [inspect.Parameter(first.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=first.annotation)]
    for one in keywords:
        default = inspect.Parameter.empty if one.default is ... else one.default
        parameters.append(
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=one.annotation)
        )
    return inspect.Signature(parameters, return_annotation=returns)


def docstring(summary: str, first: Parameter, keywords: list[Parameter], ends: Mapping[str, str]) -> str:
    """A docstring with a line for each argument.

    Args:
        summary: the first line.
        first: the positional argument.
        keywords: the rest.
        ends: heading (Returns, Raises, Example) -> text.
    """
    lines = [summary, "", "Args:"]
    for one in (first, *keywords):
        lines += textwrap.wrap(
            f"{one.name}: {one.help}", _WIDTH, initial_indent="    ", subsequent_indent="        "
        )  # fmt: skip
    for heading, text in ends.items():
        lines += [f"{heading}:", textwrap.indent(text, "    ")]
    return "\n".join(lines) + "\n"


def _with_object(text: str, taken: str) -> str:
    if text.startswith("Mapping[") and taken in text:  # its keys are the objects
        return text
    if "Sequence[" in text:
        inner = f"{text.partition(' | Sequence[')[0]} | {taken}" if taken in _BESIDE_NAMES else taken
        return f"{inner} | Sequence[{inner}]"
    optional = " | None" if text.endswith("| None") else ""
    strings = f"{text.removesuffix(' | None')} | " if taken in _BESIDE_NAMES else ""
    return f"{strings}{taken}{optional}"


def _help(field: Any, default: Any) -> str:
    registry = registry_of(field.annotation, field.metadata)
    text = " ".join((field.description or "").split())
    if isinstance(field.annotation, type) and issubclass(field.annotation, OptionGroup):
        text += f"; its keys: {', '.join(field.annotation.model_fields)}"
    if registry:
        text += f" ({'; '.join(f'{name}: {row.described()}' for name, row in registry.items())})"
    return text if default in (None, ..., "", [], {}, (), False) else f"{text}; default: {default!r}"


def fields_of(model: type[Options], options: dict[str, Any]) -> dict[str, Any]:
    """The options of a call that belong to an options model, those of its groups among them."""
    own = {leaf.name for leaf in model.leaves()}
    return {name: value for name, value in options.items() if name in own}
