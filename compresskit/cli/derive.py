"""Flags derived from options models: every field becomes one flag, under its section's heading in the help."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import click
import yaml

from ..core.errors import InputError
from ..core.registry import Table
from ..core.results import only_results_on_stdout
from ..pipeline.yaml.text import parse_value

_SCALARS = (int, float, str)


class FieldOption(click.Option):
    """A flag that remembers which field of which model it sets, and its help section."""

    def __init__(self, *args: Any, field: str, section: str, pairs: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.field = field
        self.section = section
        self.pairs = pairs


class SectionedCommand(click.Command):
    """A command whose help lists flags by section and ends with examples; while it runs, only results go to stdout."""

    def invoke(self, ctx: click.Context) -> Any:
        with only_results_on_stdout():
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                sections.setdefault(getattr(parameter, "section", "General"), []).append(record)
        for name in [*(name for name in sections if name != "General"), "General"]:
            if name in sections:
                with formatter.section(name):
                    formatter.write_dl(sections[name])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write_paragraph()
            formatter.write_text("Examples:")
            with formatter.indentation():
                for line in self.epilog.splitlines():
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")


def options_of(model: type[Any], leave_out: tuple[str, ...] = ()) -> list[FieldOption]:
    """One flag a field of an options model, in the model's order; the recipe's own fields keep their names."""
    return [_option(name, field) for name, field in model.model_fields.items() if name not in leave_out]


def flag_of(field: str) -> str:
    """`round_to` -> `--round-to`."""
    return "--" + field.replace("_", "-")


def _option(name: str, field: Any) -> FieldOption:
    annotation, metadata = field.annotation, list(field.metadata)
    table = next((item for item in metadata if isinstance(item, Table)), None)
    flag = flag_of(name)
    settings: dict[str, Any] = {
        "help": _help(field, table),
        "field": name,
        "section": (field.json_schema_extra or {}).get("section", "Options"),
        "default": None,
        "show_default": False,
    }
    kind, inner_table = _inner(annotation)
    table = table or inner_table
    if table:
        settings["help"] = _help(field, table)
        return FieldOption([flag], type=click.Choice(list(table)), metavar="NAME", **settings)
    origin = get_origin(kind)
    if origin is Literal:
        return FieldOption([flag], type=click.Choice([str(item) for item in get_args(kind)]), **settings)
    if kind is bool:
        return FieldOption([f"{flag}/--no-{flag[2:]}"], **settings)
    if origin in (list, tuple):
        inner, inner_table = _inner(get_args(kind)[0])
        choices = click.Choice(list(inner_table)) if inner_table else (inner if inner in _SCALARS else str)
        return FieldOption([flag], type=choices, multiple=True, **settings)
    if origin is dict:
        return FieldOption([flag], type=str, multiple=True, pairs=True, metavar="KEY=VALUE", **settings)
    return FieldOption([flag], type=kind if kind in _SCALARS else str, **settings)


def _inner(annotation: Any) -> tuple[Any, Table | None]:
    """Take None and Annotated off a type; the table of a choice comes along."""
    table = None
    while True:
        metadata = getattr(annotation, "__metadata__", None)
        if metadata is not None:
            table = table or next((item for item in metadata if isinstance(item, Table)), None)
            annotation = get_args(annotation)[0]
            continue
        if get_origin(annotation) in (Union, types.UnionType):
            members = [item for item in get_args(annotation) if item is not type(None)]
            if len(members) == 1:
                annotation = members[0]
                continue
            scalars = [item for item in members if item in _SCALARS]
            annotation = str if str in scalars or not scalars else float
        return annotation, table


def _help(field: Any, table: Table | None) -> str:
    text = field.description or ""
    if table:
        rows = "; ".join(f"{name}: {row.described()}" for name, row in table.items())
        text = f"{text} ({rows})"
    default = field.get_default(call_default_factory=True) if not field.is_required() else None
    if default not in (None, [], {}, (), "", False):
        text += f"  [default: {default}]"
    return text


def given_values(parameters: list[click.Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values a user gave on the command line, by field name; what was not given is left out.

    Raises:
        click.BadParameter: if a KEY=VALUE flag has no '='.
    """
    return dict(_given(parameters, values))


def _given(parameters: list[click.Parameter], values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for parameter in parameters:
        if not isinstance(parameter, FieldOption):
            continue
        value = values.get(parameter.name)
        if value is None or (parameter.multiple and not value):
            continue
        if parameter.pairs:
            yield parameter.field, dict(_pair(parameter, item) for item in value)
        else:
            yield parameter.field, list(value) if parameter.multiple else value


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
