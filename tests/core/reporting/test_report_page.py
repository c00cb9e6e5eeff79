"""The report as a page: the console's figures, escaped, with bars and plots, and no script."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compresskit.core.reporting.report_page import comparison_html, report_html
from tests.core.reporting.test_report import FIGURES, LATENCY, REPORT


class Tags(HTMLParser):
    """Opens and closes of a page; an unbalanced page leaves some open."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "polyline":
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def test_a_page_holds_the_figures_and_no_script():
    page = report_html(REPORT)
    assert page.startswith("<!DOCTYPE html>")
    assert "<script" not in page
    tags = Tags(page)
    assert tags.open == []
    for text in ("step", "MACs", "top1", "500 (25%)", "2.00x (1.90-2.10)", "not measured", "a[0]"):
        assert text in tags.cells
    assert "warning: prune: slower" in page
    assert "latency is simulated: in float" in page


def test_bars_show_what_the_last_step_left():
    widths = re.findall(r"class=\"kept\" style=\"width: ([\d.]+)%\"", report_html(REPORT))
    assert widths == ["25.0", "100.0", "100.0"]  # MACs, parameters, bytes


def test_names_are_escaped_and_control_characters_shown():
    step = {**REPORT["steps"][0], "notes": ["<img src=x onerror=alert(1)>", "bell \a"]}
    page = report_html({**REPORT, "recipe": {"model": "<b>net</b>"}, "steps": [step]})
    assert "<img" not in page
    assert "&lt;b&gt;net&lt;/b&gt;" in page
    assert "\a" not in page


def test_plots_are_part_of_the_page_and_stand_with_the_last_step():
    page = report_html({**REPORT, "steps": REPORT["steps"] * 2}, images={"search.png": b"picture"})
    assert page.count('<img src="data:image/png;base64,cGljdHVyZQ=="') == 1
    assert page.index("data:image/png") > page.rindex("prune</h2>")


def test_warnings_stand_before_the_figures():
    page = report_html({**REPORT, "warnings": ["weights are random"]})
    assert page.index("weights are random") < page.index("<table")


def test_a_run_can_be_repeated_from_its_page():
    page = report_html({**REPORT, "command": ["compresskit", "run", "my recipe.yaml"]})
    assert "<pre>compresskit run &#39;my recipe.yaml&#39;</pre>" in page
    assert "<pre>model: builtin:lenet5</pre>" in page


def test_only_what_was_measured_is_called_simulated():
    said = {"latency": "simulated: in float", "metric": "simulated: in float"}
    step = {**REPORT["steps"][0], "measurement": {**FIGURES, "metric": None, "latency": LATENCY}}
    page = report_html({**REPORT, "steps": [step], "labels": said})
    assert "warning: latency is simulated" in page and "metric is simulated" not in page
    assert "metric is simulated" in report_html({**REPORT, "labels": said})


def test_a_page_compares_runs():
    page = comparison_html("two <runs>", ["run", "MACs"], [["a", "1"], ["b", "2"]], [("a", REPORT), ("b", REPORT)])
    assert Tags(page).open == []
    assert "two &lt;runs&gt;" in page
    assert page.count("MACs left") == 2
    assert "top1 with its 95 % interval" in page and "original of a" in page


@pytest.mark.integration
def test_a_browser_shows_pages_without_overflow_errors_or_requests(tmp_path):
    modules = os.environ.get("COMPRESSKIT_BROWSER")
    if not modules or not shutil.which("node"):
        pytest.skip("COMPRESSKIT_BROWSER names no node_modules folder with puppeteer-core and @sparticuz/chromium")
    long = {"layer": "encoder.layers.11.self_attention.output.dense" * 3, "kept": 3, "error": 0.25}
    history = [{"epoch": epoch, "loss": 1 / epoch, "val_top1": 0.5} for epoch in (1, 2, 3)]
    step = {**REPORT["steps"][0], "tables": {"groups": [long] * 3}, "facts": {"history": history}}
    report = {**REPORT, "steps": [step] * 5, "warnings": ["a/" * 200], "command": ["compresskit", "x" * 300]}
    pages = {"report": report_html(report), "compare": comparison_html("runs", ["run"], [["a"]], [("a" * 200, report)])}
    for name, page in pages.items():
        (tmp_path / f"{name}.html").write_text(page)
        done = subprocess.run(
            ["node", str(Path(__file__).with_name("look_at_page.mjs")), modules, str(tmp_path / f"{name}.html"),
             "1280", "390"], capture_output=True, text=True, check=True, timeout=180,
        )  # fmt: skip
        assert json.loads(done.stdout) == {"overflow": {"1280": 0, "390": 0}, "errors": [], "requests": []}
