"""Reports as people see them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from compresskit.core.reporting.report import cell, columns_of, figures_tables, heading, rows_table, show_report
from compresskit.core.reporting.report_figures import figure_rows, metric_text

FIGURES = {
    "parameters": 1000,
    "macs": 2000,
    "size_bytes": 4000,
    "peak_memory_bytes": None,
    "zero_share": None,
    "latency": None,
    "metric": {"name": "top1", "value": 0.9, "low": 0.85, "high": 0.94, "samples": 100},
}
LATENCY = {"baseline_ms": 2.0, "model_ms": 1.0, "speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}
REPORT = {
    "recipe": {"model": "builtin:lenet5"},
    "original": FIGURES,
    "labels": {"latency": "simulated: in float"},
    "steps": [
        {
            "technique": "prune",
            "measurement": {**FIGURES, "macs": 500, "latency": LATENCY},
            "notes": ["left out [fc]"],
            "warnings": ["slower"],
            "tables": {"groups": [{"group": "a[0]", "kept": 3}]},
        }
    ],
}


def shown(renderable) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()


def test_cells():
    assert [cell(value) for value in (None, 0.123456, 12345, True, [1, 3, 8], "x")] == [
        "",
        "0.1235",
        "12,345",
        "yes",
        "1 x 3 x 8",
        "x",
    ]
    assert metric_text(None) == "not measured"
    assert metric_text(FIGURES["metric"]) == "0.9000 [0.850, 0.940]"
    assert metric_text({"value": 1.2345e-5, "low": 1e-5, "high": 1.5e-5}) == "1.234e-05 [1e-05, 1.5e-05]"
    assert metric_text({"value": 28.5, "low": 28.0, "high": 29.0}) == "28.5000 [28.000, 29.000]"


def test_names_in_brackets_are_not_markup():
    assert "a[0]" in shown(rows_table("t", [{"group": "a[0]"}, {"other": 1}]))


def test_report_says_shares_speed_and_what_was_not_measured():
    console = Console(file=io.StringIO(), width=220)
    show_report(REPORT, console)
    text = console.file.getvalue()
    for part in (
        "500 (25%)",
        "2.00x (1.90-2.10)",
        "not measured",
        "prune: left out [fc]",
        "warning: slower",
        "latency is simulated",
    ):
        assert part in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_figures_fit_the_terminal_with_every_name(width):
    console = Console(file=io.StringIO(), width=width)
    report = {**REPORT, "steps": REPORT["steps"] * 4, "warnings": []}
    for table in figures_tables("figures", *figure_rows(report), console.width):
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert text.count("prune") == text.count("500 (25%)") == text.count("2.00x (1.90-2.10)") == 4
    assert text.count("MACs") >= 1 and text.count("speed-up") >= 1


def test_warnings_of_the_run_are_shown():
    console = Console(file=io.StringIO(), width=80)
    show_report({**REPORT, "warnings": ["weights are random"]}, console)
    assert "warning: weights are random" in console.file.getvalue()


def test_columns_of_numbers_are_set_right():
    rows = [{"layer": "a", "bits": 4, "kept": True}, {"layer": "b", "bits": None, "kept": False}]
    assert columns_of(rows) == {"layer": False, "bits": True, "kept": False}


def test_generation_is_a_column_where_it_was_timed():
    generated = {"tokens_per_second": 87.64, "speedup": 1.261}
    step = {**REPORT["steps"][0], "measurement": {**FIGURES, "generation": generated}}
    columns, rows = figure_rows({**REPORT, "steps": [step]})
    place = columns.index("tokens/s")
    assert [row[place] for row in rows] == ["69.5", "87.6 (1.26x)"]
    assert "tokens/s" not in figure_rows(REPORT)[0]


def test_headings_spell_what_is_abbreviated():
    assert [heading(key) for key in ("macs_before", "weight_sqnr_db", "held_out_error", "layer")] == [
        "MACs before", "weight SQNR dB", "held-out error", "layer",
    ]  # fmt: skip
    assert str(rows_table("t", [{"stored_bytes": 3, "macs": 2}]).columns[1].header) == "MACs"
