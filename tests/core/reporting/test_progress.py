"""Lines and bars on one console, lines in their place, events for machines."""

from __future__ import annotations

import io
import json
import time

from rich.console import Console

from compresskit.core.reporting.phases import phase, timeline
from compresskit.core.reporting.progress import Reporter


def terminal(width=80, **options):
    return Console(file=io.StringIO(), force_terminal=True, width=width, **options)


def test_lines_stand_above_the_bar_and_the_bar_goes():
    console = terminal()
    reporter = Reporter(console=console)
    with timeline(reporter), phase("recover", total=10) as advance:
        advance("loss 0.5")
        reporter("epoch 1 of 10")
        reporter._bar.refresh()
    text = console.file.getvalue()
    line = next(line for line in text.replace("\r", "\n").split("\n") if "epoch 1" in line)
    assert line.removeprefix("\x1b[2K").strip() == "epoch 1 of 10"  # alone on its line
    assert "recover" in text and "1 of 10" in text and "loss 0.5" in text
    assert reporter._bar is None


def test_without_a_terminal_a_line_now_and_then_says_how_far_it_is():
    console = Console(file=io.StringIO(), width=160)
    with timeline(Reporter(console=console, quiet_seconds=0.05)), phase("calibrate", total=4) as advance:
        advance()
        time.sleep(0.2)
    lines = console.file.getvalue().splitlines()
    assert 1 <= len(lines) <= 4 and lines[0].startswith("calibrate: 1 of 4, ")
    written = console.file.getvalue()
    time.sleep(0.1)
    assert console.file.getvalue() == written  # it ends with the phases


def test_levels_leave_out_what_is_below_them():
    for level, expected in {
        "debug": ["phase cut begins", "pruned", "warning: slow", "phase cut ends"],
        "info": ["pruned", "warning: slow"],
        "warning": ["warning: slow"],
        "error": [],
    }.items():
        console = Console(file=io.StringIO(), width=160)
        reporter = Reporter(level, console=console)
        with timeline(reporter), phase("cut"):
            reporter("pruned")
            reporter("warning: slow")
        assert console.file.getvalue().splitlines() == expected, level


def test_events_are_json_lines_on_stdout(capsys):
    reporter = Reporter(events=True)
    with timeline(reporter), phase("train", total=3) as advance:
        reporter("warning: slow")
        advance("loss 1")
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == ["phase", "warning", "progress", "phase"] and err == ""
    assert events[0] == {"event": "phase", "name": "train", "state": "begin", "total": 3}
    assert events[1]["text"] == "slow" and events[2]["done"] == 1 and events[2]["total"] == 3


def test_no_colour_where_it_is_not_wanted(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = terminal()
    console.print("warning: slow", style="yellow")
    assert "\x1b[33m" not in console.file.getvalue()
