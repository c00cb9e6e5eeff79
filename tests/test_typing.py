"""A type checker knows the public Python API: right calls pass, wrong ones are errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")
pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPT = """\
import torch
from torch import nn

import compresskit

model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
pruned = compresskit.prune(model, ratio=0.5, example=torch.zeros(1, 1, 8, 8), data="digits")
smaller: nn.Module = compresskit.quantize(pruned, scheme="int8-weight").model
compresskit.save(smaller, "runs/small")
factored = compresskit.decompose(pruned, kind="svd", target_params=0.5, data="digits")
student: nn.Module = compresskit.distill("builtin:digits_cnn", data="digits", epochs=1.0, teacher="runs/teacher").model
found = compresskit.search(model, target_macs="50%", trials=8, data="digits", example=torch.zeros(1, 1, 8, 8))
back: nn.Module = compresskit.load("runs/small")
measured = compresskit.measure(factored, against=found, data="digits", metric="top1")
"""
WRONG = """\
compresskit.prune(model, rato=0.5)
compresskit.prune(model, ratio="half")
compresskit.prune(model, granularity="chanel")
pruned.modul
compresskit.decompose(model, target_params=[])
compresskit.distill(model, epochs="one")
compresskit.search(model, policy=0)
compresskit.load(path=3)
compresskit.measure(model, again=model)
"""


def test_a_script_is_checked_against_the_stub(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + WRONG)
    first_wrong = SCRIPT.count("\n") + 1
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary"]
    # torch's own stubs take 20 s to read, and `mypy` and `pyright` read them in CI
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-torch.*]\nfollow_imports = skip\n")
    command += ["--config-file=mypy.ini", f"--cache-dir={tmp_path / 'cache'}", "--no-incremental", str(script)]
    environment = {"MYPYPATH": str(REPOSITORY), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [int(line.split(":")[1]) for line in errors] == [first_wrong + n for n in range(9)], done.stdout
    kinds = [line.rpartition("[")[2].rstrip("]") for line in errors]
    assert kinds == ["call-arg", "arg-type", "arg-type", "attr-defined", *["arg-type"] * 3, *["call-arg"] * 2]
