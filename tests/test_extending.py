"""The examples of docs/extending.md: each file is written, each command runs, and its row is in the report."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from compresskit.cli.main import cli
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"```bash\ncompresskit (.*?)\n```", PAGE)

pytestmark = pytest.mark.integration


def test_every_file_is_used_by_a_command():
    assert len(FILES) >= 6
    assert [name for name in FILES if not any(f"{name}:" in command for command in COMMANDS)] == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[-1])
def test_an_example_runs(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    words = shlex.split(command)
    result = CliRunner().invoke(cli, [*words, "-q", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    row = next(word for word in words if ".py:" in word).partition("=")[0]
    if words[0] == "export":
        assert Path(words[-1]).is_file() and row in json.loads(result.stdout).values()
    else:
        report = json.loads(Path(words[-1], "report.json").read_text())
        assert row in json.dumps(report["recipe"])
