"""Help in layers: `--help` shows what most people need, `--help SECTION` one section, `--help-all` every option."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import click

from ..core.errors import nearest
from ..core.reporting.results import only_results_on_stdout
from .derive import FieldOption

_LAYER = "compresskit.help"  # key of a context: which layer of the help was asked for
_COMMON, _ALL = "common", "all"
_GENERAL = "General"
_LATER = ("json_lines", "log_level")  # of the general ones, what the first layer leaves out
_SHORT_TEXT = 68  # characters of a help text in the first layer, about two lines of a terminal
#: where a text may end for good, and where only with an ellipsis
_ENDS, _BREAKS = re.compile(r"; | \(|\. "), re.compile(r", ")


class SectionedCommand(click.Command):
    """A command whose help lists flags by section and ends with examples; while it runs, only results go to stdout.

    Args:
        common: fields whose flags `--help` shows, in that order, with flags that are made from no field after them;
            without any, `--help` shows every flag.
    """

    def __init__(self, *args: Any, common: Sequence[str] = (), **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.common = tuple(common)

    def invoke(self, ctx: click.Context) -> Any:
        with only_results_on_stdout():
            return super().invoke(ctx)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        return [*params, _help_all(hidden=not self.common)]

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        if not self.common:
            return super().get_help_option(ctx)
        names = self.get_help_option_names(ctx)
        return click.Option(
            names, is_flag=False, flag_value=_COMMON, metavar="[SECTION]", expose_value=False, is_eager=True,
            callback=_show, help="Show this message, or a section's options, and exit.",
        )  # fmt: skip

    def sections(self, ctx: click.Context) -> dict[str, list[click.Parameter]]:
        """Flags that are shown, by their section's heading; the general ones last."""
        found: dict[str, list[click.Parameter]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and parameter.get_help_record(ctx):
                found.setdefault(getattr(parameter, "section", _GENERAL), []).append(parameter)
        general = found.pop(_GENERAL, None)
        return found if general is None else {**found, _GENERAL: general}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        layer = ctx.meta.get(_LAYER, _COMMON) if self.common else _ALL
        sections = self.sections(ctx)
        if layer == _COMMON:
            fields = {parameter.field: parameter for parameter in self.params if isinstance(parameter, FieldOption)}
            shown = [_short_record(fields[name], ctx) for name in self.common]
            general = [parameter for parameter in sections[_GENERAL] if parameter in self.params]
            own = [parameter for parameter in general if parameter.name not in _LATER]
            _write_section(formatter, "Options", [*shown, *_records(own, ctx)])
            return
        for name, parameters in sections.items():
            if layer in (_ALL, slug(name)):
                _write_section(formatter, name, _records(parameters, ctx))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write_paragraph()
            formatter.write_text("Examples:")
            with formatter.indentation():
                for line in self.epilog.splitlines():
                    formatter.write(_example_lines(line, formatter.width, formatter.current_indent))
        if self.common and ctx.meta.get(_LAYER, _COMMON) == _COMMON:
            names = [slug(name) for name in self.sections(ctx)]
            formatter.write_paragraph()
            formatter.write_text(f"More: --help-all, `compresskit explain OPTION`, --help SECTION: {', '.join(names)}")


def _example_lines(example: str, width: int, indent: int) -> str:
    """An example, continued before an option where a line has no room for it."""
    lines, first = [""], True
    for part in re.split(r" (?=-)", example):
        if not first and indent + len(lines[-1]) + len(part) + 3 > width:
            lines[-1] += " \\"
            lines.append(f"    {part}")
        else:
            lines[-1] += part if first else f" {part}"
        first = False
    return "".join(f"{' ' * indent}{line}\n" for line in lines)


def slug(section: str) -> str:
    """`How much` -> `how-much`, as `--help` takes it."""
    return section.lower().replace(" ", "-")


def _help_all(*, hidden: bool) -> click.Option:
    return click.Option(
        ["--help-all"], is_flag=True, expose_value=False, is_eager=True, hidden=hidden,
        help="Show every option and exit.",
        callback=lambda ctx, param, value: _show(ctx, param, _ALL) if value else None,
    )  # fmt: skip


def _show(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is None or ctx.resilient_parsing:
        return
    command = ctx.command
    assert isinstance(command, SectionedCommand)
    if value not in (_COMMON, _ALL):
        names = [slug(name) for name in command.sections(ctx)]
        if slug(value) not in names:
            raise click.BadParameter(f"no section {value!r}{nearest(value, names)}", ctx, param)
    ctx.meta[_LAYER] = value if value in (_COMMON, _ALL) else slug(value)
    click.echo(ctx.get_help(), color=ctx.color)
    ctx.exit()


def _short_record(option: FieldOption, ctx: click.Context) -> tuple[str, str]:
    record = option.get_help_record(ctx)
    assert record is not None  # common fields are not hidden
    text, default, value = (option.plain_help or "").partition("  [default: ")
    return record[0], f"{_shortened(text)}{default}{value}"


def _shortened(text: str) -> str:
    """As many clauses of a help text as the first layer has room for; the rest is for those who ask."""
    if len(text) <= _SHORT_TEXT:
        return text
    for places, ellipsis in ((_ENDS, ""), (_BREAKS, "…")):
        ends = [match.start() for match in places.finditer(text)]
        fitting = [end for end in ends if end <= _SHORT_TEXT and text.count("(", 0, end) == text.count(")", 0, end)]
        if fitting:
            return f"{text[: fitting[-1]]}{ellipsis}"
    return text


def _records(parameters: Iterable[click.Parameter], ctx: click.Context) -> list[tuple[str, str]]:
    return [record for parameter in parameters if (record := parameter.get_help_record(ctx))]


def _write_section(formatter: click.HelpFormatter, name: str, records: list[tuple[str, str]]) -> None:
    with formatter.section(name):
        formatter.write_dl(records)
