"""Showing a report: tables on stderr for people, JSON on stdout for machines."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .results import printable, write_result

NOT_MEASURED = "not measured"
#: what a report says of each model, in this order; "metric" stands for the metric's own name
FIGURE_NAMES = ("parameters", "MACs", "bytes", "metric", "latency", "speed-up", "peak memory")


def plain(text: str) -> Text:
    """Text that is shown as it is: no markup, no emoji codes, no terminal commands in it."""
    return Text(printable(text))


def print_json(content: Any) -> None:
    """One JSON document on stdout."""
    write_result(json.dumps(content, indent=2, default=str))


def report_table(report: dict[str, Any]) -> Table:
    """One row for the original and one a step: parameters, MACs, bytes, metric, latency, memory."""
    table = Table(title=plain(f"compresskit: {report['recipe'].get('model', 'model')}"), title_justify="left")
    for name in ("step", *(metric_name(report) if name == "metric" else name for name in FIGURE_NAMES)):
        table.add_column(plain(name), justify="left" if name == "step" else "right", no_wrap=name != "step")
    original = report["original"]
    table.add_row("original", *map(plain, figure_cells(original, original)))
    for step in report["steps"]:
        table.add_row(plain(step["technique"]), *map(plain, figure_cells(step["measurement"], original)))
    return table


def metric_name(report: dict[str, Any]) -> str:
    """Name of the metric, "metric" where none was measured."""
    metric = report["original"].get("metric")
    return metric["name"] if metric else "metric"


def figure_cells(figures: dict[str, Any], original: dict[str, Any]) -> list[str]:
    """What `FIGURE_NAMES` says of a model, beside the original."""

    def share(key: str) -> str:
        value = f"{figures[key]:,}"
        return value if figures is original else f"{value} ({figures[key] / max(original[key], 1):.0%})"

    latency = figures.get("latency")
    speed = (
        f"{latency['speedup']:.2f}x ({latency['speedup_low']:.2f}-{latency['speedup_high']:.2f})"
        if latency
        else NOT_MEASURED
    )
    memory = figures.get("peak_memory_bytes")
    return [
        share("parameters"),
        share("macs"),
        share("size_bytes"),
        metric_text(figures.get("metric")),
        f"{latency['model_ms']:.2f} ms" if latency else ("1.00x" if figures is original else NOT_MEASURED),
        "1.00x" if figures is original else speed,
        f"{memory:,}" if memory else NOT_MEASURED,
    ]


def metric_text(metric: dict[str, Any] | None) -> str:
    """`0.9722 [0.949, 0.985]`: the mean and its 95 % interval."""
    return f"{metric['value']:.4f} [{metric['low']:.3f}, {metric['high']:.3f}]" if metric else NOT_MEASURED


def rows_table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Any list of row mappings as a table; the columns are the keys in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(title=plain(title), title_justify="left")
    numeric = {
        c
        for c in columns
        if all(isinstance(row.get(c), int | float | None) and not isinstance(row.get(c), bool) for row in rows)
    }
    for column in columns:
        table.add_column(plain(column.replace("_", " ")), justify="right" if column in numeric else "left")
    for row in rows:
        table.add_row(*(plain(cell(row.get(column))) for column in columns))
    return table


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
    for name, label in report.get("labels", {}).items():
        if label.startswith("simulated") and name == "latency":
            console.print(f"latency is {label}", style="yellow", highlight=False, soft_wrap=True, markup=False)
