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


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("prune", "compresskit prune: Remove channels"),
        ("resume", "--resume (train, prune"),
        ("--dry-run", "--dry-run (train, prune"),
        ("log-level", "--log-level (train"),
        ("imagefolder", "imagefolder, a data form: imagefolder:DIR"),
        ("digits_cnn", "digits_cnn, a builtin model: "),
        ("pareto", "Pareto front: "),
    ],
)
def test_commands_flags_data_forms_and_words_of_terms_are_explained(word, said, invoke):
    code, out, _ = invoke("explain", word)
    assert code == 0 and out.startswith(said)


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


def test_options_of_commands_that_are_no_steps_are_explained(invoke):
    code, out, _ = invoke("explain", "--top")
    assert code == 0 and "classes to show of each input" in out and "predict" in out
    code, out, _ = invoke("explain", "labels")
    assert code == 0 and "text file with the name of a class a line" in out
    assert "bench" not in invoke("explain", "target-macs")[1]
