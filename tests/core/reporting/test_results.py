"""Names never command a terminal, markup is shown as text, and only results reach stdout."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from compresskit.core.reporting.report import rows_table
from compresskit.core.reporting.results import broken, only_results_on_stdout, printable, write_result
from tests.conftest import REPOSITORY


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer[red].0[/]", "layer[red].0[/]"),
        (":smile:", ":smile:"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\r", "a\\nb\\r"),
        ("a\u202eb", "a\\u202eb"),
        ("\udcff", "\\udcff"),
        ("größe 🙂", "größe 🙂"),
    ],
)
@pytest.mark.parametrize("width", [20, 160])
def test_tables_show_names_as_they_are(text, shown, width):
    assert printable(text) == shown
    stream = io.StringIO()
    Console(file=stream, width=width).print(rows_table(text, [{text: text}]))
    assert "\x1b[31m" not in stream.getvalue()
    if width == 160:
        assert stream.getvalue().count(shown) == 3


def test_prints_go_to_stderr_and_results_to_stdout(capsys):
    with only_results_on_stdout():
        print("a print")
        write_result("a result")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a result\n", "a print\n")


NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("[red]x[/]", ":smile:", "größe", "[/]"):
            self.add_module(name, nn.Linear(4, 4))
    def forward(self, x):
        print("a word")
        for layer in self.children():
            x = layer(x)
        return x
"""
#: both forms of the output from one start of Python, whose streams the environment decides
TWICE = """
import sys
from compresskit.cli.main import main
for more in (["--json"], []):
    sys.argv = ["compresskit", "inspect", "[red]é.py:Net", "--input", "4", *more]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    print("---", flush=True)
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C", "TERM": "dumb"},
        {"COLUMNS": "20", "NO_COLOR": "1"},
        {"FORCE_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
    ],
    ids=["ascii", "narrow", "colour"],
)
def test_layer_names_on_every_terminal(environment, tmp_path):
    (tmp_path / "[red]é.py").write_text(NET)
    (tmp_path / "twice.py").write_text(TWICE)
    done = subprocess.run(
        [sys.executable, "twice.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result, _ = done.stdout.split("---\n", 1)
    assert [row["layer"] for row in json.loads(result)["layers"]] == ["[red]x[/]", ":smile:", "größe", "[/]"]
    if "COLUMNS" not in environment:
        assert "[red]x[/]" in done.stderr
        assert ":smile:" in done.stderr


def test_error_lines_name_paths_that_are_no_text(compresskit, tmp_path):
    name = os.fsdecode(b"\xff\x1b[31m.yaml")
    done = compresskit("run", name)
    assert done.returncode == 2
    assert done.stderr == "compresskit: recipe '\\udcff\\x1b[31m.yaml' does not exist; name one that is there\n"


def test_the_html_report_shows_markup_as_text():
    from compresskit.core.reporting.report import plain

    console = Console(record=True, file=io.StringIO(), width=80)
    console.print(plain("<script>alert(1)</script> [bold]x"))
    assert "&lt;script&gt;" in console.export_html()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_lines_broken_between_words_and_a_program_gets_them_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    text = "--ratio (prune)\n  share removed, of the channels of each group, e.g. 0.5"
    shown = broken(text, Terminal())
    assert shown.splitlines() == [
        "--ratio (prune)", "  share removed, of the", "    channels of each group,", "    e.g. 0.5",
    ]  # fmt: skip
    assert broken(text, io.StringIO()) == text
    assert broken("a" * 50, Terminal()) == "a" * 50  # a path stays one word
