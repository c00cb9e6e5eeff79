"""Showing a report: tables on stderr for people, JSON on stdout for machines."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..costs import MACS
from .report_figures import costs_of, figure_rows
from .results import printable, write_result

#: words of keys that headings spell otherwise
_SPELLED = {MACS: "MACs", "sqnr": "SQNR", "db": "dB", "onnx": "ONNX", "mb": "MB", "kb": "KB"}
_FEWEST_COLUMNS = 3  # that a narrow table keeps
_WIDEST_TEXT = 36  # characters of a cell for which room is made; longer texts fold


def plain(text: str) -> Text:
    """Text that is shown as it is: no markup, no emoji codes, no terminal commands in it."""
    return Text(printable(text))


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line: as it is where a program reads it, broken between words where a person does."""
    console.print(plain(line), style=style, highlight=False, soft_wrap=not console.is_terminal, markup=False)


def print_json(content: Any) -> None:
    """One JSON document on stdout."""
    write_result(json.dumps(content, indent=2, default=str))


def figures_tables(title: str, columns: list[str], rows: list[list[str]], width: int) -> list[Table]:
    """The figures: a row a model; where that is wider than the terminal, a column a model, in tables that fit.

    Args:
        title: of the first table.
        columns: headings, the first one that of the models' names.
        rows: cells, a row a model.
        width: of the terminal, in characters.
    """
    if _width([columns, *rows]) <= width:
        return [_figures_table(title, columns, rows)]
    tables, chosen = [], [columns]
    for row in rows:
        if len(chosen) > 1 and _width(list(zip(*chosen, row, strict=True))) > width:
            tables.append(chosen)
            chosen = [columns]
        chosen.append(row)
    turned = [[list(cells) for cells in zip(*group, strict=True)] for group in [*tables, chosen]]
    return [_figures_table(title if number == 0 else "", cells[0], cells[1:]) for number, cells in enumerate(turned)]


def _width(lines: Sequence[Sequence[str]]) -> int:
    """Characters that a table of cells takes, borders included."""
    return sum(max(map(len, column)) + 3 for column in zip(*lines, strict=True)) + 1


def _figures_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=plain(title) if title else None, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(plain(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    return table


def rows_table(title: str, rows: Sequence[dict[str, Any]], width: int | None = None) -> Table:
    """Any list of row mappings as a table; the columns are the keys in order of first appearance.

    Args:
        title: above it.
        rows: the mappings.
        width: of the terminal; the last columns, which matter least, are left out where all take more, and texts fold.
    """
    columns = columns_of(rows)
    shown = list(columns)
    while width is not None and len(shown) > _FEWEST_COLUMNS and _width(_cells(shown, rows)) > width:
        shown.pop()
    left_out = [heading(column) for column in columns if column not in shown]
    caption = plain(f"not shown: {', '.join(left_out)}") if left_out else None
    table = Table(title=plain(title), title_justify="left", caption=caption, caption_justify="left")
    for column in shown:
        justify: Literal["left", "right"] = "right" if columns[column] else "left"
        table.add_column(plain(heading(column)), justify=justify, overflow="fold", no_wrap=columns[column])
    for row in rows:
        table.add_row(*(plain(cell(row.get(column))) for column in shown))
    return table


def _cells(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    heads = [heading(column) for column in columns]
    return [heads, *([cell(row.get(column))[:_WIDEST_TEXT] for column in columns] for row in rows)]


def columns_of(rows: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """The columns of row mappings, in order of first appearance, and whether each holds numbers or nothing alone."""
    columns = dict.fromkeys(key for row in rows for key in row)
    return {column: all(_is_number(row.get(column)) for row in rows) for column in columns}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | None) and not isinstance(value, bool)


def heading(key: str) -> str:
    """A key as a table's heading: `macs_before` -> `MACs before`."""
    return " ".join(_SPELLED.get(word, word) for word in key.split("_")).replace("held out", "held-out")


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
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
                console.print(rows_table(f"{step['technique']}: {title}", rows, console.width))
    title = f"compresskit: {report['recipe'].get('model', 'model')}"
    for table in figures_tables(title, *figure_rows(report), console.width):
        console.print(table)
    for line in report.get("warnings", []):
        _warn(console, line)
    for step in report["steps"]:
        for note in step["notes"]:
            say(console, f"{step['technique']}: {note}")
        for warning in step["warnings"]:
            _warn(console, warning, f"{step['technique']}: ")
    labels = report.get("labels", {})
    for cost in costs_of(report):
        label = labels.get(cost.figure, "")
        simulated = cost.known == "timed" and label.startswith("simulated")
        if simulated or cost.modelled:
            say(console, f"{cost.noun} is {label}", "yellow")


def _warn(console: Console, line: str, where: str = "") -> None:
    say(console, f"{where}warning: {line}", "yellow")
