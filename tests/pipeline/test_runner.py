"""Running recipes: chaining, resume, guards, and a kill in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import compresskit as package
from compresskit.artifact import artifact
from compresskit.artifact.disk.ownership import MARKER
from compresskit.core.errors import GuardMissed, InputError
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run

pytestmark = pytest.mark.integration

REPOSITORY = Path(package.__file__).resolve().parent.parent
TRAIN = {"train": {"epochs": 2, "lr": 0.1, "batch_size": 64}}
PRUNE = {"prune": {"ratio": 0.5, "recover": "finetune", "epochs": 1, "lr": 0.05}}
QUANTIZE = {"quantize": {"scheme": "int8-weight"}}


def recipe(*steps, **extra):
    return validate(
        {"model": "builtin:digits_cnn_small", "data": "digits", "latency_rounds": 0, "steps": list(steps), **extra}
    )


def test_steps_chain_and_the_result_loads_alone(tmp_path):
    report = run(Run(recipe(TRAIN, PRUNE, QUANTIZE), tmp_path / "out"))
    figures = [step["measurement"] for step in report["steps"]]
    assert figures[1]["macs"] < 0.6 * figures[0]["macs"]
    assert figures[2]["size_bytes"] < 0.6 * figures[1]["size_bytes"]
    assert figures[2]["size_bytes"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    module = package.load(str(tmp_path / "out"))
    assert isinstance(module, torch.nn.Module)
    assert module(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    kept = sorted(path.name for path in (tmp_path / "out.steps").iterdir() if path.name != MARKER)
    assert kept == ["0-train", "1-prune", "2-quantize"]


def test_the_report_says_what_made_it(tmp_path):
    report = run(Run(recipe(TRAIN, seed=3), tmp_path / "out", command=["compresskit", "run", "x.yaml"]))
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written == json.loads(json.dumps(report))
    assert written["command"] == ["compresskit", "run", "x.yaml"]
    assert written["seed"] == 3
    assert written["versions"]["torch"] == torch.__version__
    assert written["original"]["metric"]["samples"] == 360
    assert written["steps"][0]["measurement"]["latency"] is None  # latency_rounds 0: not measured
    assert validate(written["recipe"]) == recipe(TRAIN, seed=3)


def test_a_trained_step_becomes_what_later_steps_are_compared_with(tmp_path):
    report = run(Run(recipe(TRAIN, QUANTIZE), tmp_path / "out"))
    assert report["original"] == report["steps"][0]["measurement"]


def test_an_existing_output_is_kept_without_force(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="--force"):
        run(Run(recipe(QUANTIZE), tmp_path / "out"))
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_resume_takes_an_unchanged_prefix_and_repeats_the_rest(tmp_path):
    run(Run(recipe(TRAIN, PRUNE), tmp_path / "out"))
    train_time = (tmp_path / "out.steps" / "0-train" / "manifest.json").stat().st_mtime_ns
    prune_time = (tmp_path / "out.steps" / "1-prune" / "manifest.json").stat().st_mtime_ns
    lines: list[str] = []
    changed = {"prune": {**PRUNE["prune"], "ratio": 0.25}}
    run(Run(recipe(TRAIN, changed), tmp_path / "out", resume=True, log=lines.append))
    assert any(line.startswith("0-train: unchanged") for line in lines)
    assert (tmp_path / "out.steps" / "0-train" / "manifest.json").stat().st_mtime_ns == train_time
    assert (tmp_path / "out.steps" / "1-prune" / "manifest.json").stat().st_mtime_ns > prune_time


@pytest.mark.parametrize(
    ("guard", "says"),
    [
        ({"max_drop": 0.0}, "top1 fell by"),
        ({"max_bytes": 10}, "max_bytes is 10"),
        ({"min_speedup": 1000}, "min_speedup is 1000"),
    ],
)
def test_a_missed_guard_names_the_step_and_keeps_the_last_good_artifact(tmp_path, guard, says):
    cut = {"prune": {"ratio": 0.75, **guard}}
    task = Run(recipe(TRAIN, cut, latency_rounds=2 if "min_speedup" in guard else 0), tmp_path / "out")
    with pytest.raises(GuardMissed, match=f"step 1-prune: .*{says}.*last good artifact is .*0-train"):
        run(task)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.steps" / "1-prune").exists()
    assert artifact.load(tmp_path / "out.steps" / "0-train").module is not None


def test_a_held_guard_lets_the_step_pass(tmp_path):
    guarded = {"quantize": {"scheme": "int8-weight", "max_drop": 0.05, "max_bytes": 30000}}
    report = run(Run(recipe(TRAIN, guarded), tmp_path / "out"))
    trained, quantized = (step["measurement"] for step in report["steps"])
    assert quantized["size_bytes"] <= 30000 < trained["size_bytes"]
    assert quantized["metric"]["value"] >= trained["metric"]["value"] - 0.05


def test_a_missed_guard_exits_3(invoke, tmp_path):
    (tmp_path / "r.yaml").write_text(
        "model: builtin:digits_cnn_small\ndata: digits\nlatency_rounds: 0\noutput: out\n"
        "steps:\n  - quantize: {max_bytes: 10}\n"
    )
    code, _, errors = invoke("run", "r.yaml")
    assert code == 3
    assert "step 0-quantize" in errors.splitlines()[-1]


def test_user_code_is_copied_and_runs_again_only_when_named(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
        "    net.input_shape = (1, 8, 8)\n    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    run(Run(validate({"model": "net.py:make", "steps": [QUANTIZE], "latency_rounds": 0}), tmp_path / "out"))
    monkeypatch.setattr(artifact, "_named", {})  # as in a new process
    with pytest.raises(InputError, match="--trust-source"):
        package.load("out")
    expected = package.load("out", trust_source=True)(torch.ones(1, 1, 8, 8))
    assert torch.equal(package.load("out", source="net.py:make")(torch.ones(1, 1, 8, 8)), expected)
    (tmp_path / "out" / "net.py").write_text("def make(): raise SystemExit\n")
    with pytest.raises(InputError, match="was changed"):
        package.load("out", trust_source=True)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    (tmp_path / "r.yaml").write_text(
        json.dumps(
            {
                "model": "builtin:digits_cnn_small",
                "data": "digits",
                "latency_rounds": 0,
                "steps": [TRAIN, {"train": {"epochs": 4, "lr": 0.05, "batch_size": 128}}, QUANTIZE],
            }
        )
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

    def command(out: str, *more: str) -> list[str]:
        return [sys.executable, "-m", "compresskit", "run", "r.yaml", "-o", out, *more]

    subprocess.run(command("whole"), cwd=tmp_path, env=environment, check=True, capture_output=True)
    with subprocess.Popen(
        command("killed"), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        # the first step is done and the second has finished some epochs
        deadline = time.monotonic() + 120
        for line in process.stderr:
            if line.startswith("epoch 2 of 4") or time.monotonic() > deadline:
                break
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "killed").exists()
    assert (tmp_path / "killed.steps" / "0-train" / "manifest.json").exists()
    assert not (tmp_path / "killed.steps" / "1-train").exists()
    done = subprocess.run(
        command("killed", "--resume"), cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert "0-train: unchanged" in done.stderr
    assert "epoch 1 of 4" not in done.stderr  # the second step goes on where it was
    assert "epoch 4 of 4" in done.stderr
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


@pytest.mark.slow
def test_a_recipe_runs_under_torchrun(tmp_path):
    (tmp_path / "r.yaml").write_text(
        json.dumps(
            {
                "model": "builtin:digits_cnn_small",
                "data": "digits",
                "latency_rounds": 0,
                "output": "out",
                "steps": [TRAIN, PRUNE],
            }
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "compresskit", "run", "r.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["steps"][0]["facts"]["processes"] == 2
    assert report["steps"][1]["facts"]["recovery"]["processes"] == 2
