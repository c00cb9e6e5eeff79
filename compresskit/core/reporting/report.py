"""Showing a report: tables on stderr for people, JSON on stdout for machines."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..costs import Cost, cost_of, field_of, guard_of, names
from .results import printable, write_result

NOT_MEASURED = "not measured"
_LEAST_IN_DECIMALS = 0.01  # values below need more than four decimals


def plain(text: str) -> Text:
    """Text that is shown as it is: no markup, no emoji codes, no terminal commands in it."""
    return Text(printable(text))


def print_json(content: Any) -> None:
    """One JSON document on stdout."""
    write_result(json.dumps(content, indent=2, default=str))


def report_table(report: dict[str, Any]) -> Table:
    """One row for the original and one a step: the costs and the metric."""
    table = Table(title=plain(f"compresskit: {report['recipe'].get('model', 'model')}"), title_justify="left")
    columns, rows = figure_rows(report)
    for name in columns:
        table.add_column(plain(name), justify="left" if name == "step" else "right", no_wrap=name != "step")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def figure_rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table of figures: a row for the original and one a step."""
    columns, original = _columns(report), report["original"]
    models = [("original", original), *((step["technique"], step["measurement"]) for step in report["steps"])]
    rows = [[name, *(show(figures, original) for show in columns.values())] for name, figures in models]
    return ["step", *columns], rows


#: (figures of a model, those of the original) -> a cell
_Show = Callable[[dict[str, Any], dict[str, Any]], str]


def _columns(report: dict[str, Any]) -> dict[str, _Show]:
    """Heading -> cells: what is counted, the metric, what is timed, the rest; what is modelled if a step names it."""
    named = _costs_of(report)
    exact = {cost.noun: partial(_with_share, cost) for cost in named if cost.known == "exact" and not cost.modelled}
    timed = {
        heading: partial(show, cost)
        for cost in named if cost.known == "timed"
        for heading, show in ((cost.noun, _milliseconds), ("speed-up", _speedup))
    }  # fmt: skip
    rest = {cost.noun: partial(_plain_figure, cost) for cost in named if cost.known == "predicted"}
    modelled = {f"{cost.noun} (model)": partial(_with_share, cost) for cost in named if cost.modelled}
    metric: dict[str, _Show] = {_metric_name(report): lambda figures, _: metric_text(figures.get("metric"))}
    models = (report["original"], *(step["measurement"] for step in report["steps"]))
    has_generated = any(figures.get("generation") for figures in models)
    generated: dict[str, _Show] = {"tokens/s": _tokens_per_second} if has_generated else {}
    return exact | metric | timed | generated | rest | modelled


def described_cost(name: str) -> dict[str, str]:
    """What a report says of a user's own cost, so that it is shown without the user's code."""
    cost = cost_of(name)
    return {"noun": cost.noun, "unit": cost.unit}


def _costs_of(report: dict[str, Any]) -> list[Cost]:
    """The costs that a report shows: those that a step names among the modelled ones, and all others."""
    costs = [cost for name in names() if not (cost := cost_of(name)).modelled or _is_named(report, name)]
    own = report.get("costs", {}).items()
    return costs + [Cost(**described, figure=name, modelled=True) for name, described in own]


def _is_named(report: dict[str, Any], name: str) -> bool:
    """Whether a step gives a budget or a guard of a cost."""
    given = (step.get("options", {}) for step in report["steps"])
    return any(options.get(key) is not None for options in given for key in (field_of(name), guard_of(name)))


def _metric_name(report: dict[str, Any]) -> str:
    metric = report["original"].get("metric")
    return metric["name"] if metric else "metric"


def _plain_figure(cost: Cost, figures: dict[str, Any], _original: dict[str, Any]) -> str:
    figure = figures.get(cost.figure)
    if not figure:
        return NOT_MEASURED
    return f"{figure:,}" if cost.is_counted else cost.shown(figure)


def _with_share(cost: Cost, figures: dict[str, Any], original: dict[str, Any]) -> str:
    whole = original.get(cost.figure)
    if figures is original or not whole:
        return f"{figures[cost.figure]:,}" if cost.is_counted else _plain_figure(cost, figures, original)
    figure = f"{figures[cost.figure]:,}" if cost.is_counted else cost.shown(figures[cost.figure])
    return f"{figure} ({figures[cost.figure] / whole:.0%})"


def _milliseconds(cost: Cost, figures: dict[str, Any], original: dict[str, Any]) -> str:
    record = figures.get(cost.figure)
    if record:
        return f"{record['model_ms']:.2f} ms"
    return "1.00x" if figures is original else NOT_MEASURED


def _tokens_per_second(figures: dict[str, Any], original: dict[str, Any]) -> str:
    """Of a model that generates text, timed in turn with the original."""
    record = figures.get("generation")
    if record:
        return f"{record['tokens_per_second']:.1f} ({record['speedup']:.2f}x)"
    return "1.00x" if figures is original else NOT_MEASURED


def _speedup(cost: Cost, figures: dict[str, Any], original: dict[str, Any]) -> str:
    if figures is original:
        return "1.00x"
    record = figures.get(cost.figure)
    if not record:
        return NOT_MEASURED
    return f"{record['speedup']:.2f}x ({record['speedup_low']:.2f}-{record['speedup_high']:.2f})"


def metric_text(metric: dict[str, Any] | None) -> str:
    """`0.9722 [0.949, 0.985]`: the value and its 95 % interval; of very small and large values the leading digits."""
    if not metric:
        return NOT_MEASURED
    value, ends = metric["value"], (metric["low"], metric["high"])
    if value == 0 or _LEAST_IN_DECIMALS <= abs(value) < 1 / _LEAST_IN_DECIMALS:
        return f"{value:.4f} [{ends[0]:.3f}, {ends[1]:.3f}]"
    return f"{value:.4g} [{ends[0]:.3g}, {ends[1]:.3g}]"


def rows_table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Any list of row mappings as a table; the columns are the keys in order of first appearance."""
    columns = columns_of(rows)
    table = Table(title=plain(title), title_justify="left")
    for column, numeric in columns.items():
        table.add_column(plain(column.replace("_", " ")), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(plain(cell(row.get(column))) for column in columns))
    return table


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """The columns of row mappings, in order of first appearance, and whether each holds numbers or nothing alone."""
    columns = dict.fromkeys(key for row in rows for key in row)
    return {column: all(_is_number(row.get(column)) for row in rows) for column in columns}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | None) and not isinstance(value, bool)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return (
            " x ".join(map(str, value)) if all(isinstance(item, int) for item in value) else ", ".join(map(cell, value))
        )
    return str(value)


def report_fragment(report: dict[str, Any]) -> str:
    """The same as a piece of a page, with its styles in it, for notebooks."""
    console = Console(record=True, width=140, file=io.StringIO(), emoji=False)
    show_report(report, console)
    style = "white-space: pre; overflow-x: auto; line-height: normal; font-family: monospace"
    return console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')


def show_report(report: dict[str, Any], console: Console) -> None:
    """The whole report for a person: the figures, then tables, notes and warnings of each step."""
    for step in report["steps"]:
        for title, rows in step["tables"].items():
            if rows:
                console.print(rows_table(f"{step['technique']}: {title}", rows))
    console.print(report_table(report))
    for step in report["steps"]:
        for note in step["notes"]:
            console.print(plain(f"{step['technique']}: {note}"), highlight=False, soft_wrap=True, markup=False)
        for warning in step["warnings"]:
            console.print(
                plain(f"{step['technique']}: warning: {warning}"),
                style="yellow",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )
    labels = report.get("labels", {})
    for cost in _costs_of(report):
        label = labels.get(cost.figure, "")
        simulated = cost.known == "timed" and label.startswith("simulated")
        if simulated or cost.modelled:
            console.print(f"{cost.noun} is {label}", style="yellow", highlight=False, soft_wrap=True, markup=False)
