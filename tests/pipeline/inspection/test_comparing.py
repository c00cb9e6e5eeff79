"""Runs side by side, from their reports."""

from __future__ import annotations

import json

import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.inspection.comparing import compared, read_reports
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
