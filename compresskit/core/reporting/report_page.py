"""Reports as one HTML page each: no scripts, no network, light and dark, printable."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import PurePath
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from .charts import curve
from .report import cell, columns_of, heading
from .report_figures import bars_of, figure_rows, headline, intervals_of, intervals_of_runs
from .results import printable

_PROVENANCE = ("seed", "versions", "machine", "weights_sha256", "inputs_sha256")
_IMAGE_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@cache
def _template(name: str) -> Template:
    loader = PackageLoader("compresskit.core.reporting", "")
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)


def report_html(report: dict[str, Any], images: Mapping[str, bytes] | None = None) -> str:
    """The report that the console shows, as a page, with bars, curves, and how to run it again.

    Args:
        report: what `report.json` holds.
        images: plots by file name (.png, .svg); they become part of the page and stand with the last step.
    """
    last = len(report["steps"]) - 1
    steps = [
        {
            "name": printable(step["technique"]),
            "seconds": step.get("seconds"),
            "notes": list(map(printable, step["notes"])),
            "tables": [_grid(title, rows) for title, rows in step["tables"].items() if rows],
            "curve": curve(_history(step)),
            "images": [_inlined(name, content) for name, content in (images or {}).items()] if number == last else [],
        }
        for number, step in enumerate(report["steps"])
    ]
    provenance = [f"{name.replace('_', ' ')}: {_listed(report[name])}" for name in _PROVENANCE if name in report]
    return _template("report.html.j2").render(
        model=printable(str(report["recipe"].get("model", "model"))),
        headline=headline(report),
        warnings=list(map(printable, _warnings(report))),
        figures=_figures(report),
        bars=bars_of(report),
        intervals=intervals_of(report),
        steps=steps,
        command=printable(shlex.join(map(str, report.get("command", [])))),
        recipe=_recipe(report),
        provenance=list(map(printable, provenance)),
    )


def comparison_html(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], runs: Sequence[Any]) -> str:
    """Several runs on one page.

    Args:
        title: heading.
        columns: headings of the table of figures.
        rows: its cells, a row a run.
        runs: (name, report) of each.
    """
    bars = [
        {"name": printable(name), "bars": bars_of(report)[-1]["bars"] if report["steps"] else []}
        for name, report in runs
    ]
    return _template("compare.html.j2").render(
        title=printable(title), figures=_columns_and_rows(columns, rows), bars=bars, intervals=intervals_of_runs(runs),
        recipes=[(printable(name), _recipe(report)) for name, report in runs],
    )  # fmt: skip


def _recipe(report: dict[str, Any]) -> str:
    text = yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True)
    return "\n".join(map(printable, text.splitlines()))


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)
    return str(value)


def _warnings(report: dict[str, Any]) -> list[str]:
    measured = report["steps"][-1]["measurement"] if report["steps"] else {}
    labels = [
        f"{name} is {label}"
        for name, label in report.get("labels", {}).items()
        if label.startswith("simulated") and measured.get(name) is not None
    ]
    steps = [f"{step['technique']}: {warning}" for step in report["steps"] for warning in step["warnings"]]
    return [*report.get("warnings", []), *steps, *labels]


def _history(step: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What training recorded at each evaluation, in the step itself or after it."""
    facts = step.get("facts", {})
    return facts.get("history") or (facts.get("recovery") or {}).get("history") or []


def _inlined(name: str, content: bytes) -> dict[str, str]:
    kind = _IMAGE_TYPES[PurePath(name).suffix]
    return {"name": printable(name), "url": f"data:{kind};base64,{base64.b64encode(content).decode()}"}


def _figures(report: dict[str, Any]) -> dict[str, Any]:
    return _columns_and_rows(*figure_rows(report))


def _columns_and_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {
        "columns": [{"name": printable(name), "numeric": number > 0} for number, name in enumerate(columns)],
        "rows": [[{"text": printable(text), "share": None} for text in row] for row in rows],
    }


def _grid(title: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A step's table; numbers of a column that are all positive have bars behind them, the largest the whole width."""
    columns = columns_of(rows)
    largest = {column: _largest(rows, column) for column, numeric in columns.items() if numeric}
    return {
        "title": printable(title),
        "columns": [{"name": printable(heading(column)), "numeric": numeric} for column, numeric in columns.items()],
        "rows": [
            [
                {"text": printable(cell(row.get(name))), "share": _share(row.get(name), largest.get(name))}
                for name in columns
            ]
            for row in rows
        ],
    }


def _largest(rows: Sequence[dict[str, Any]], column: str) -> float | None:
    values = [row[column] for row in rows if row.get(column) is not None]
    return max(values) if values and min(values) >= 0 and max(values) > 0 else None


def _share(value: Any, largest: float | None) -> float | None:
    return round(100 * value / largest, 1) if largest and isinstance(value, int | float) else None
