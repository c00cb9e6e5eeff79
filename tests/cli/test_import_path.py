"""Files that lie beside an artifact never run, whatever they are called."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compresskit.artifact import artifact
from compresskit.artifact.source import load_model

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
#: modules that Python, torch or we import at some point, and our own name
NAMES = (
    "json", "random", "typing", "copy", "torch", "numpy", "yaml", "click", "pydantic", "rich", "safetensors",
    "sitecustomize_", "site_packages", "statistics", "wave", "colorsys", "ast",
)  # fmt: skip


@pytest.fixture(scope="module")
def trap(tmp_path_factory) -> Path:
    """An artifact with files beside it that leave a mark when they run."""
    folder = tmp_path_factory.mktemp("trap") / "artifact"
    artifact.save(load_model("builtin:digits_cnn_small"), folder)
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'RAN')!r}, 'a').write({name!r})\n")
    return folder


@pytest.mark.parametrize("arguments", [("verify", "."), ("verify", "../artifact"), ("inspect", ".")], ids=" ".join)
def test_nothing_beside_an_artifact_runs(arguments, trap, compresskit):
    done = compresskit(*arguments, cwd=trap)
    assert not (trap / "RAN").exists(), (trap / "RAN").read_text()
    assert done.returncode == 0, done.stderr


def test_our_own_name_beside_an_artifact_does_not_run(trap, tmp_path):
    """The console script: its import path starts at its own folder, and `verify` starts a second process."""
    folder = tmp_path / "artifact"
    shutil.copytree(trap, folder)
    (folder / "compresskit.py").write_text(f"open({str(folder / 'RAN')!r}, 'a').write('compresskit')\n")
    script = tmp_path / "script" / "run.py"
    script.parent.mkdir()
    script.write_text("from compresskit.cli.main import main\nmain()\n")
    done = subprocess.run(
        [sys.executable, script, "verify", "."],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "verified\n"), done.stderr
    assert not (folder / "RAN").exists()


def test_code_of_the_current_folder_runs_when_it_is_named(compresskit, tmp_path):
    (tmp_path / "helpers.py").write_text("WIDTH = 8\n")
    (tmp_path / "nets.py").write_text(
        "from torch import nn\nimport helpers\nprint('a word of the module')\ndef make():\n"
        "    print('a word of the factory')\n    return nn.Linear(helpers.WIDTH, 2)\n"
    )
    for model in ("nets:make", "nets.py:make"):
        done = compresskit("inspect", model, "--input", "8", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["parameters"] == 18
        assert "a word of the factory" in done.stderr
