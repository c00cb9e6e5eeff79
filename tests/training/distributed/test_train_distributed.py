"""Two processes of torchrun's agent train the model that one process trains, and survive the loss of one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.integration

WORKER = Path(__file__).with_name("train_worker.py")
ROOT = Path(__file__).resolve().parents[3]
#: float32 sums in another order, over eight steps
TOLERANCE = 1e-5


def result_of(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    return load_file(folder / "weights.safetensors"), json.loads((folder / "facts.json").read_text())


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


OPTIONS = {
    "epochs": 1,
    "batch_size": 64,
    "keep": "last",
    "train_limit": 512,
    "mixup": 0.2,
    "augment": ["crop"],
    "ema": 0.9,
    "grad_clip": 0.5,
}


@pytest.mark.parametrize("sharding", ["none", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_equal_one_and_a_killed_pair_resumes(tmp_path, sharding):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    settings = {"one": str(one), "two": str(two), "options": OPTIONS, "kill_at": 6}
    settings["in_two"] = {"checkpoint_steps": 2, "sharding": sharding}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), json.dumps(settings)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert finished.returncode == 0, finished.stderr
    outcome = json.loads(finished.stdout)
    assert not outcome["killed_ended_well"] and "weights.safetensors" not in outcome["left"]
    assert outcome["resumed_ended_well"], finished.stderr
    expected, expected_facts = result_of(one)
    weights, facts = result_of(two)
    assert facts["processes"] == 2
    assert facts["resumed_from_step"] == 4
    assert largest_difference(weights, expected) < TOLERANCE
    assert facts["history"][-1]["loss"] == pytest.approx(expected_facts["history"][-1]["loss"], abs=TOLERANCE)
