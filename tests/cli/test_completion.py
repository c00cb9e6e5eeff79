"""What a shell is offered, by asking as a shell does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from compresskit.cli.completion import completion_script
from compresskit.cli.main import cli
from tests.conftest import REPOSITORY


def offered(*words: str) -> list[str]:
    """What bash is told for a line whose last word is being typed."""
    asked = {"_COMPRESSKIT_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["compresskit", *words])}
    done = CliRunner().invoke(
        cli, prog_name="compresskit", env={**asked, "COMP_CWORD": str(len(words))}, complete_var="_COMPRESSKIT_COMPLETE"
    )
    return [line.partition(",")[2] for line in done.output.split()]


def test_commands_options_and_rows():
    assert offered("pru") == ["prune"]
    assert "--criterion" in offered("prune", "--crit")
    assert offered("prune", "--criterion", "tay") == ["taylor"]


def test_models_and_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "picture.csv").touch()
    assert offered("prune", "builtin:lenet") == ["builtin:lenet5", "builtin:lenet300"]
    assert "torchvision:" in offered("prune", "torch")
    assert offered("prune", "x", "--data", "digits-") == ["digits-detection", "digits-segmentation"]
    assert offered("prune", "x", "--data", "imagef") == ["imagefolder:"]
    assert offered("prune", "x", "--data", "imagefolder:pict") == ["imagefolder:picture.csv", "imagefolder:pictures/"]
    assert offered("prune", "x", "--data", f"csv:{tmp_path}/picture.") == [f"csv:{tmp_path}/picture.csv"]
    assert offered("prune", "x", "--data", "csv:no/such/folder/") == []


def test_layers_of_an_artifact(tmp_path):
    header = json.dumps(
        {name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for name in ("conv1.weight", "fc.bias")}
    )
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    assert offered("quantize", str(tmp_path), "--skip", "c") == ["conv1"]
    assert offered("quantize", "torchvision:resnet18", "--skip", "c") == []
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    assert offered("quantize", str(tmp_path), "--skip", "c") == []


@pytest.mark.integration
def test_a_process_that_a_shell_asks_answers(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "_COMPRESSKIT_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [sys.executable, "-m", "compresskit"],
        env={**environment, "COMP_WORDS": "compresskit decom", "COMP_CWORD": "1"},
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("plain,decompose\n", "")


def test_names_that_explain_takes():
    assert "taylor" in offered("explain", "tayl")
    assert "target_macs" in offered("explain", "target_m")


@pytest.mark.parametrize(("answer", "goes_on"), [("imagefolder:", True), ("runs/", True), ("taylor", False)])
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_puts_no_space_after_a_word_that_goes_on(answer, goes_on, tmp_path):
    program = tmp_path / "compresskit"
    program.write_text(f"#!/bin/sh\necho plain,{answer}\n")
    program.chmod(0o755)
    asked = (
        "compopt() { echo compopt $*; }\nCOMP_WORDS=(compresskit x); COMP_CWORD=1\n_compresskit_completion compresskit"
    )
    done = subprocess.run(
        ["bash", "-c", f"{completion_script(cli, 'bash')}\n{asked}\necho ${{COMPREPLY[*]}}"],
        capture_output=True, text=True, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout.split() == ["compopt", "-o", "nospace"] * goes_on + [answer]


def test_zsh_adds_words_that_go_on_without_a_space():
    assert "compadd -U -V unsorted -S ''" in completion_script(cli, "zsh")
    assert "compadd" not in completion_script(cli, "bash")
