"""The rows of a bench as a table: a model a row, as many columns as were measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ...core.reporting.report_figures import NOT_MEASURED, metric_text

_MB = 1e6


def bench_rows(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells.

    Args:
        rows: as `bench` returns them.
    """
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "model": lambda row: f"{'* ' if row['best'] else ''}{row['model']}",
        "runtime": lambda row: str(row["runtime"]),
    }
    for place, one in enumerate(rows[0]["latency"]):
        size = one["batch_size"]
        of = f" at {size}" if len(rows[0]["latency"]) > 1 else ""
        columns[f"latency{of}"] = partial(_latency, place)
    columns["a second"] = lambda row: f"{row['latency'][-1]['per_second']:,.0f}"
    if any("cold_start_ms" in row for row in rows):
        columns["cold start"] = lambda row: _shown(row.get("cold_start_ms"), "{:,.0f} ms")
        columns["memory"] = lambda row: _shown(row.get("peak_memory_bytes"), "{:,.1f} MB", _MB)
    columns["size"] = lambda row: _shown(row["size_bytes"], "{:,.2f} MB", _MB)
    name = next((row["metric"]["name"] for row in rows if row.get("metric")), None)
    if name is not None:
        columns[name] = lambda row: metric_text(row["metric"])
    return list(columns), [[show(row) for show in columns.values()] for row in rows]


def _latency(place: int, row: dict[str, Any]) -> str:
    one = row["latency"][place]
    return f"{one['median_ms']:.2f} ms ({one['low_ms']:.2f}-{one['high_ms']:.2f})"


def _shown(value: float | None, form: str, unit: float = 1.0) -> str:
    return NOT_MEASURED if value is None else form.format(value / unit)
