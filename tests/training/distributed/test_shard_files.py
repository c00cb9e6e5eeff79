"""Checkpoints of sharded training: read in any number of processes, from older versions, and never in part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_parts_of_two_processes_are_read_by_others_and_a_lost_file_is_refused(tmp_path):
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("shard_worker.py")), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert run.returncode == 0, run.stderr
    results = json.loads(run.stdout)
    lost = results.pop("lost")
    files = [f"training.step4/shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)]
    same = {"in 1": "equal", "in 2": "equal", "in 3": "equal", "older": "equal"}
    assert results == {"save": None, "files": files, **same}, run.stderr
    assert "is damaged: shard-00002" in lost and "has 0 bytes" in lost and "to start anew" in lost
