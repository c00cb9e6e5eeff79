"""The figures of a report as text."""

from __future__ import annotations

from compresskit.core.reporting.report_figures import bars_of, figure_rows, headline, intervals_of, intervals_of_runs
from tests.core.reporting.test_report import FIGURES, LATENCY, REPORT


def with_steps(*measurements):
    steps = [{**REPORT["steps"][0], "measurement": {**FIGURES, **one}} for one in measurements]
    return {**REPORT, "steps": steps}


def test_times_of_all_steps_are_scaled_to_one_time_of_the_original():
    slow_day = {**LATENCY, "baseline_ms": 6.0, "model_ms": 2.0, "speedup": 3.0}  # the machine was busier then
    columns, rows = figure_rows(with_steps({"latency": LATENCY}, {"latency": slow_day}, {}))
    assert [row[columns.index("latency")] for row in rows] == ["2.00 ms", "1.00 ms", "0.67 ms", "not measured"]


def test_the_headline_compares_the_last_step_with_the_original():
    after = {"macs": 500, "latency": LATENCY, "metric": {**FIGURES["metric"], "value": 0.88}}
    said = {part["says"]: part["figure"] for part in headline(with_steps({}, after))}
    assert said["of the MACs"] == "25%"
    assert said["speed (latency, quartiles 1.90 to 2.10)"] == "2.00x"
    assert said["top1, 0.0200 below the original"] == "0.88"
    assert headline({**REPORT, "steps": []}) == []


def test_bars_are_shares_of_the_original():
    first, second = bars_of(with_steps({"macs": 1000}, {"macs": 500, "size_bytes": None}))
    assert {"name": "MACs left", "percent": 50.0} in first["bars"]
    assert {"name": "MACs left", "percent": 25.0} in second["bars"]
    assert "bytes left" not in [bar["name"] for bar in second["bars"]]


def test_intervals_share_one_range():
    lower = {"metric": {"name": "top1", "value": 0.8, "low": 0.74, "high": 0.85, "samples": 100}}
    original, step = intervals_of(with_steps(lower))  # 0.74 to 0.94
    assert (original["low"], original["width"], original["value"]) == (55.0, 45.0, 80.0)
    assert (step["low"], step["width"], step["value"]) == (0.0, 55.0, 30.0)
    assert intervals_of({**REPORT, "original": {**FIGURES, "metric": None}, "steps": []}) == []


def test_runs_stand_below_the_original_of_the_first_in_one_range():
    lower = {"metric": {"name": "top1", "value": 0.8, "low": 0.74, "high": 0.85, "samples": 100}}
    other = {"metric": {**lower["metric"], "name": "map"}}
    shown = intervals_of_runs([("a", with_steps(lower)), ("b", with_steps({}, {})), ("c", with_steps(other))])
    assert [one["name"] for one in shown] == ["original of a", "a", "b"]
    assert shown[0]["low"] == shown[2]["low"] == 55.0 and shown[1]["low"] == 0.0
    assert intervals_of_runs([("a", {**REPORT, "original": {**FIGURES, "metric": None}})]) == []
