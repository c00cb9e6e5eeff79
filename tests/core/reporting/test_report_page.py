"""The report as a page: the console's figures, escaped, with bars and plots, and no script."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from compresskit.core.reporting.report_page import report_html
from tests.core.reporting.test_report import REPORT


class Tags(HTMLParser):
    """Opens and closes of a page; an unbalanced page leaves some open."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
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
    assert "warning: slower" in page
    assert "latency is simulated: in float" in page


def test_bars_show_what_the_last_step_left():
    widths = re.findall(r"width: ([\d.]+)%\"", report_html(REPORT))
    assert widths == ["25.0", "100.0", "100.0"]  # MACs, parameters, bytes


def test_names_are_escaped_and_control_characters_shown():
    step = {**REPORT["steps"][0], "notes": ["<img src=x onerror=alert(1)>", "bell \a"]}
    page = report_html({**REPORT, "recipe": {"model": "<b>net</b>"}, "steps": [step]})
    assert "<img" not in page
    assert "&lt;b&gt;net&lt;/b&gt;" in page
    assert "\a" not in page


def test_plots_stand_with_the_last_step():
    page = report_html({**REPORT, "steps": REPORT["steps"] * 2}, images=["search.png"])
    assert page.count('<img src="search.png"') == 1
    assert page.index("search.png") > page.rindex("<h2>")
