"""Two processes under torchrun train the model that one process trains, and survive the loss of one of them."""

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
ROOT = Path(__file__).resolve().parents[2]
#: float32 sums in another order, over eight steps
TOLERANCE = 1e-5


def launch(folder: Path, processes: int, options: dict, **settings) -> subprocess.CompletedProcess:
    folder.mkdir(exist_ok=True)
    arguments = [str(WORKER), json.dumps({"folder": str(folder), "options": options, **settings})]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*(launcher if processes > 1 else [sys.executable]), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


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


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    finished = launch(folder, 1, OPTIONS)
    assert finished.returncode == 0, finished.stderr
    return result_of(folder)


@pytest.mark.parametrize("sharding", ["none", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_equal_one_and_a_killed_pair_resumes(one_process, tmp_path, sharding):
    options = {**OPTIONS, "checkpoint_steps": 2, "sharding": sharding}
    killed = launch(tmp_path, 2, options, kill_at=6)
    assert killed.returncode != 0
    assert not (tmp_path / "weights.safetensors").exists()
    resumed = launch(tmp_path, 2, options)
    assert resumed.returncode == 0, resumed.stderr
    weights, facts = result_of(tmp_path)
    assert facts["processes"] == 2
    assert facts["resumed_from_step"] == 4
    assert largest_difference(weights, one_process[0]) < TOLERANCE
    assert facts["history"][-1]["loss"] == pytest.approx(one_process[1]["history"][-1]["loss"], abs=TOLERANCE)
