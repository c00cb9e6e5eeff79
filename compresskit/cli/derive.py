"""Flags derived from options models: every field becomes one flag, under its section's heading in the help."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import click
import yaml
from click.shell_completion import CompletionItem

from ..core.errors import InputError
from ..core.options import Leaf, registry_of
from ..core.registry import Registry
from ..core.shares import is_share
from ..pipeline.yaml.text import parse_value
from .completion import COMPLETIONS, Completed

_NUMBERS = (int, float)
_SCALARS = (*_NUMBERS, str)


class FieldOption(click.Option):
    """A flag that remembers which field of which model it sets, and its help section.

    Args:
        field: the option's name.
        path: its keys in the options model: of a group's option, the group's before its own.
        section: heading in the help.
        pairs: whether it takes KEY=VALUE.
        registry: whose rows the help lists, once it is asked for.
    """

    def __init__(
        self,
        *args: Any,
        field: str,
        section: str,
        path: tuple[str, ...] = (),
        pairs: bool = False,
        registry: Registry[Any] | None = None,
        **kwargs: Any,
    ):
        self.registry = registry
        super().__init__(*args, **kwargs)
        self.field = field
        self.path = path or (field,)
        self.section = section
        self.pairs = pairs

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """The value by its type; one that is none stays text, which the options model refuses with all other errors."""
        try:
            return super().type_cast_value(ctx, value)
        except click.BadParameter:
            return value

    @property
    def help(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]  # rows are loaded when shown
        if self.registry is None or not self._help:
            return self._help
        rows = [f"{name}: {row.described()}" for name, row in self.registry.rows().items()]
        rows += ["or your own, as file.py:name"] if self.registry.group else []
        text, default, value = self._help.partition("  [default: ")
        return f"{text} ({'; '.join(rows)}){default}{value}"

    @help.setter
    def help(self, text: str | None) -> None:
        self._help = text

    @property
    def plain_help(self) -> str | None:
        """The help text without the rows that it may name."""
        return self._help


class RowName(click.ParamType):
    """The name of a registry's row, or a user's own as `file.py:name`."""

    name = "name"

    def __init__(self, registry: Registry[Any]):
        self.registry = registry

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.registry.check(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [
            CompletionItem(name, help=row.help)
            for name, row in self.registry.rows().items()
            if name.startswith(incomplete)
        ]


def options_of(model: type[Any], leave_out: tuple[str, ...] = ()) -> list[FieldOption]:
    """One flag an option of an options model, in the model's order; the recipe's own fields keep their names.

    Flags that the model knows only to refuse them are hidden, and say what to give in their place.
    """
    own = [_option(leaf) for leaf in model.leaves() if leaf.name not in leave_out]
    return [*own, *(_refused(name) for name in [*model.renamed_keys(), *model.refused])]


def _refused(name: str) -> FieldOption:
    return FieldOption([flag_of(name)], type=str, field=name, section="Options", hidden=True)


def flag_of(field: str) -> str:
    """`round_to` -> `--round-to`."""
    return "--" + field.replace("_", "-")


def _option(leaf: Leaf) -> FieldOption:
    flag, field = flag_of(leaf.name), leaf.field
    extra: dict[str, Any] = dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}
    settings: dict[str, Any] = {
        "help": _help(field),
        "field": leaf.name,
        "path": leaf.path,
        "section": extra.get("section", "Options"),
        "default": None,
        "show_default": False,
    }
    kind = _inner(field.annotation)
    takes = extra.get("takes")
    text = Completed(takes) if takes in COMPLETIONS else str
    origin = get_origin(kind)
    registry = registry_of(field.annotation, field.metadata)
    if registry is not None and origin is not dict:
        several = origin in (list, tuple)
        settings |= {"type": RowName(registry), "registry": registry, "metavar": "NAME", "multiple": several}
        return FieldOption([flag], **settings)
    if origin is Literal:
        return FieldOption([flag], type=click.Choice([str(item) for item in get_args(kind)]), **settings)
    if kind is bool:
        return FieldOption([f"{flag}/--no-{flag[2:]}"], **settings)
    if is_share(field.annotation, field.metadata) and origin is not dict:
        settings["metavar"] = "SHARE"
        return FieldOption([flag], type=str, multiple=origin in (list, tuple), **settings)
    if origin in (list, tuple):
        inner = _inner(get_args(kind)[0])
        literal = click.Choice([str(item) for item in get_args(inner)]) if get_origin(inner) is Literal else None
        return FieldOption([flag], type=literal or (inner if inner in _NUMBERS else text), multiple=True, **settings)
    if origin is dict:
        return FieldOption([flag], type=str, multiple=True, pairs=True, metavar="KEY=VALUE", **settings)
    if {float, str} <= set(get_args(field.annotation)):
        settings["metavar"] = "AMOUNT"
    return FieldOption([flag], type=kind if kind in _NUMBERS else text, **settings)


def _inner(annotation: Any) -> Any:
    """Take None and Annotated off a type."""
    while True:
        if getattr(annotation, "__metadata__", None) is not None:
            annotation = get_args(annotation)[0]
            continue
        if get_origin(annotation) in (Union, types.UnionType):
            members = [item for item in get_args(annotation) if item is not type(None)]
            if len(members) == 1:
                annotation = members[0]
                continue
            scalars = [item for item in members if item in _SCALARS]
            annotation = str if str in scalars or not scalars else float
        return annotation


def _help(field: Any) -> str:
    text = field.description or ""
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    if default not in (None, [], {}, (), "", False):
        shown = " ".join(map(str, default)) if isinstance(default, (list, tuple)) else default
        text += f"  [default: {shown}]"
    return text


def given_values(parameters: Sequence[click.Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values a user gave on the command line, by key, those of a group under its key; no defaults.

    Raises:
        click.BadParameter: if a KEY=VALUE flag has no '='.
    """
    found: dict[str, Any] = {}
    for path, value in _given(parameters, values):
        here = found
        for key in path[:-1]:
            here = here.setdefault(key, {})
        here[path[-1]] = value
    return found


def _given(parameters: Sequence[click.Parameter], values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for parameter in parameters:
        if not isinstance(parameter, FieldOption):
            continue
        value = values.get(parameter.name)
        if value is None or (parameter.multiple and not value):
            continue
        if parameter.pairs:
            yield parameter.path, dict(_pair(parameter, item) for item in value)
        else:
            yield parameter.path, list(value) if parameter.multiple else value


def _pair(parameter: FieldOption, item: str) -> tuple[str, Any]:
    key, equals, text = item.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"write KEY=VALUE, got {item!r}", param=parameter)
    try:
        return key, parse_value(text, f"{parameter.opts[0]} {key[:80]!r}")
    except InputError as error:
        if isinstance(error.__cause__, yaml.YAMLError):  # plain text such as `a: b: c` stays text
            return key, text
        raise click.BadParameter(str(error), param=parameter) from error
