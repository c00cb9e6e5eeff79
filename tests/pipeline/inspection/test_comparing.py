"""Runs side by side, from their reports."""

from __future__ import annotations

import json

import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.inspection.comparing import compared, holding_reports, read_reports
from tests.core.reporting.test_report import FIGURES, REPORT


@pytest.fixture
def runs(tmp_path):
    folders = []
    for name, macs in (("first", 500), ("second", 1000)):
        (tmp_path / name).mkdir()
        step = {**REPORT["steps"][0], "measurement": {**FIGURES, "macs": macs}}
        (tmp_path / name / "report.json").write_text(json.dumps({**REPORT, "steps": [step]}))
        folders.append(str(tmp_path / name))
    return folders


def test_each_run_is_a_row_below_the_original(runs):
    columns, rows = compared(read_reports(runs))
    macs = columns.index("MACs")
    assert [row[macs] for row in rows] == ["2,000", "500 (25%)", "1,000 (50%)"]
    assert [row[0] for row in rows] == [f"original of {runs[0]}", *runs]


def test_runs_of_one_original_are_timed_beside_it_and_others_beside_their_own(runs, tmp_path):
    def timed(baseline_ms, **original):
        latency = {"baseline_ms": baseline_ms, "speedup": 2.0, "speedup_low": 2.0, "speedup_high": 2.0}
        step = {**REPORT["steps"][0], "measurement": {**FIGURES, "latency": latency}}
        return {**REPORT, "original": {**REPORT["original"], **original}, "steps": [step]}

    columns, rows = compared([("a", timed(4.0)), ("other", timed(9.0, macs=77)), ("b", timed(6.0))])
    latency = columns.index("latency")
    assert [(row[0], row[latency]) for row in rows] == [
        ("original of a", "4.00 ms"), ("a", "2.00 ms"), ("b", "2.00 ms"),
        ("original of other", "9.00 ms"), ("other", "4.50 ms"),
    ]  # fmt: skip


def test_what_is_no_report_is_refused(runs, tmp_path):
    with pytest.raises(InputError, match="holds no report.json"):
        read_reports([str(tmp_path)])
    for content in (
        "[]",
        '{"recipe": {}, "original": {}, "steps": [{}]}',
        '{"original": 3, "recipe": {}, "steps": []}',
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match="not the report of a run"):
            read_reports([str(tmp_path / "bad.json")])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_reports([str(tmp_path / "bad.json")])


def test_the_command_prints_json_and_writes_a_page_that_it_does_not_replace(runs, invoke, tmp_path):
    page = tmp_path / "runs.html"
    code, out, _ = invoke("compare", *runs, "-o", str(page), "--json")
    assert code == 0
    assert [row["MACs"] for row in json.loads(out)] == ["2,000", "500 (25%)", "1,000 (50%)"]
    assert "1,000 (50%)" in page.read_text()
    before = page.read_text()
    code, _, err = invoke("compare", runs[0], "-o", str(page))
    assert code == 2 and "--force" in err
    assert page.read_text() == before
    assert invoke("compare", runs[0], "-o", str(page), "-f")[0] == 0
    assert page.read_text() != before


def test_what_a_pattern_names_too_is_left_out(runs, tmp_path, invoke):
    (tmp_path / "a.steps").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"")
    others = [str(tmp_path / "a.steps"), str(tmp_path / "model.onnx")]
    assert holding_reports([*others, *runs]) == (list(runs), others)
    assert holding_reports(others) == (others, [])  # the error names them
    missing = str(tmp_path / "none")
    assert holding_reports([missing, *runs]) == ([missing, *runs], [])
    code, _, err = invoke("compare", *runs, *others)
    assert code == 0 and f"left out, since they hold no report of a run: {others[0]}, {others[1]}" in err
    assert invoke("compare", *runs, missing)[0] == 2
