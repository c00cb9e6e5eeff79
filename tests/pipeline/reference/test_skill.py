"""The page for coding agents names every command, and its commands exist."""

from __future__ import annotations

import re

from compresskit.cli.main import COMMANDS
from compresskit.pipeline.reference.outputs import OUTPUTS
from compresskit.pipeline.reference.skill import skill_page
from compresskit.pipeline.techniques import TECHNIQUES


def test_the_page_names_all_commands_codes_and_outputs(invoke):
    page = skill_page({name: summary for name, (_, summary) in COMMANDS.items()})
    for name in (*TECHNIQUES, *COMMANDS, *OUTPUTS):
        assert f"| `{name}` |" in page
    assert "| 3 | a guard or a budget was missed" in page and "| 130 |" in page
    code, printed, _ = invoke("skill")
    assert code == 0 and printed == page


def test_the_flags_in_it_exist(invoke):
    page = skill_page({})
    for line in re.findall(r"^compresskit (\w+) .*$", page, flags=re.M):
        assert line in (*TECHNIQUES, *COMMANDS)
    for whole in re.findall(r"^compresskit .*$", page, flags=re.M):
        words = whole.split()
        known = invoke(words[1], "--help-all" if words[1] in TECHNIQUES else "--help")[1]
        assert all(word in known for word in words if word.startswith("--")), whole
