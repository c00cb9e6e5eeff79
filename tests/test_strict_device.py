"""Every technique works where weights and inputs do not lie on the CPU, with the CPU's choices and weights."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch.utils import backend_registration

from tests.conftest import REPOSITORY

# bfloat16 is left out: the stand-in has no autocast
ROWS = [
    "train", "prune, refit", "prune, blocks", "2:4, sparsegpt", "zeros, solved", "int8, static", "int4, gptq", "nf4",
    "w4a4, blocks", "codebook", "ranks", "taylor", "distill",
]  # fmt: skip


@pytest.mark.slow
def test_every_technique_makes_the_cpus_choices_on_another_device():
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this PyTorch has no devices written in Python")
    script = str(REPOSITORY / "tests" / "strict_device.py")
    done = subprocess.run([sys.executable, script, *ROWS], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"{row}: the same edits, 0.0e+00" for row in ROWS]
