"""The report as one HTML page without scripts, from a template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from ..costs import cost_of, names
from .report import cell, columns_of, figure_rows
from .results import printable

#: what a bar shows of the last step: key of a measurement -> its name
_BARS = {cost.figure: cost.noun for cost in map(cost_of, names("exact")) if not cost.modelled}


@cache
def _template() -> Template:
    loader = PackageLoader("compresskit.core.reporting", "")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template(
        "report.html.j2"
    )


def report_html(report: dict[str, Any], images: Sequence[str] = ()) -> str:
    """The report that the console shows, as a page: figures, bars of what is left, and each step's notes and tables.

    Args:
        report: what `report.json` holds.
        images: names of plots that lie beside the page; they stand with the last step.
    """
    last = len(report["steps"]) - 1
    steps = [
        {
            "name": printable(step["technique"]),
            "notes": list(map(printable, step["notes"])),
            "warnings": list(map(printable, step["warnings"])),
            "tables": [_grid(title, rows) for title, rows in step["tables"].items() if rows],
            "images": list(images) if number == last else [],
        }
        for number, step in enumerate(report["steps"])
    ]
    provenance = [f"{name}: {report[name]}" for name in ("command", "seed", "versions", "machine") if name in report]
    return _template().render(
        model=printable(str(report["recipe"].get("model", "model"))),
        figures=_figures(report),
        bars=_bars(report),
        labels=[
            f"{name} is {label}" for name, label in report.get("labels", {}).items() if label.startswith("simulated")
        ],
        steps=steps,
        provenance=list(map(printable, provenance)),
    )


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    columns, rows = figure_rows(report)
    return {
        "columns": [{"name": name, "numeric": number > 0} for number, name in enumerate(columns)],
        "rows": [list(map(printable, row)) for row in rows],
    }


def _bars(report: dict[str, Any]) -> list[dict[str, Any]]:
    if not report["steps"]:
        return []
    original, final = report["original"], report["steps"][-1]["measurement"]
    return [
        {"name": f"{name} left", "percent": round(100 * final[key] / original[key], 1)}
        for key, name in _BARS.items()
        if original[key]
    ]


def _grid(title: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    columns = columns_of(rows)
    return {
        "title": printable(title),
        "columns": [
            {"name": printable(column.replace("_", " ")), "numeric": numeric} for column, numeric in columns.items()
        ],
        "rows": [[printable(cell(row.get(column))) for column in columns] for row in rows],
    }
