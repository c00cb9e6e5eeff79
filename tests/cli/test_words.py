"""explain and completion as commands."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest


def test_explain_prints_an_option_with_its_rows(invoke):
    code, out, _ = invoke("explain", "--criterion")  # as it is typed elsewhere
    assert code == 0
    assert "--criterion (prune; section Which)" in out
    assert "    taylor: first-order change of the loss" in out


def test_explain_takes_words_and_prints_json(invoke):
    code, out, _ = invoke("explain", "knowledge", "distillation", "--json")
    assert code == 0
    assert [record["kind"] for record in json.loads(out)] == ["term"]


def test_an_unknown_word_is_refused_with_the_nearest(invoke):
    code, out, err = invoke("explain", "tailor")
    assert (code, out) == (2, "")
    assert err == "compresskit: nothing is called 'tailor'; did you mean 'taylor'?\n"


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_completion_scripts_are_valid(shell, check, invoke):
    code, out, _ = invoke("completion", shell)
    assert code == 0
    assert "_COMPRESSKIT_COMPLETE" in out
    if shutil.which(shell):
        assert subprocess.run([shell, check], input=out, text=True, capture_output=True).stderr == ""
