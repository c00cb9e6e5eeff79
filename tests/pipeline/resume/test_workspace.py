"""What a run may replace and what it may not, damaged steps, two runs on one output, and kills at random moments."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import compresskit as package
from compresskit.artifact import artifact
from compresskit.artifact.disk import locks
from compresskit.artifact.disk.ownership import MARKER
from compresskit.core.errors import GuardMissed, InputError
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run

pytestmark = pytest.mark.integration

REPOSITORY = Path(package.__file__).resolve().parent.parent
QUANTIZE = {"quantize": {"scheme": "int8-weight"}}
SHARE = {"quantize": {"scheme": "codebook", "bits": 4}}
PRUNE = {"prune": {"ratio": 0.3}}


def recipe(*steps, **extra):
    content = {"model": "builtin:digits_cnn_small", "latency_rounds": 0, "steps": list(steps or [QUANTIZE]), **extra}
    return validate(content)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("flags", [{"force": True}, {"resume": True}, {"force": True, "resume": True}, {}], ids=str)
def test_a_folder_of_somebody_else_is_never_touched(tmp_path, flags):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"^output '.*out'"):
        run(Run(recipe(), tmp_path / "out", **flags))
    assert tree(tmp_path) == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("flags", [{"force": True}, {"resume": True}, {}], ids=str)
def test_steps_of_somebody_else_are_never_touched(tmp_path, flags):
    (tmp_path / "out.steps").mkdir()
    (tmp_path / "out.steps" / "mine").write_text("x")
    for marker in (None, {"written_by": "compresskit", "output": "another"}):
        if marker:
            (tmp_path / "out.steps" / MARKER).write_text(json.dumps(marker))
        before = tree(tmp_path)
        with pytest.raises(InputError, match=r"out\.steps.* was not written by compresskit for this output"):
            run(Run(recipe(), tmp_path / "out", **flags))
        assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["out/notes.txt", "out.steps/notes.txt", "out.steps/0-quantize/notes.txt"])
def test_notes_of_the_user_are_never_deleted(tmp_path, place):
    run(Run(recipe(), tmp_path / "out", keep_steps=True))
    (tmp_path / place).write_text("mine")
    before = tree(tmp_path)
    for flags in ({"force": True}, {"force": True, "resume": True}):
        with pytest.raises(InputError, match=r"also holds '[\w/-]*notes\.txt', not written by compresskit"):
            run(Run(recipe(SHARE), tmp_path / "out", **flags))
        assert tree(tmp_path) == before
    (tmp_path / place).unlink()
    run(Run(recipe(SHARE), tmp_path / "out", force=True))
    assert tree(tmp_path)["out/model.safetensors"] != before["out/model.safetensors"]


def test_notes_that_appear_among_the_steps_during_a_run_stay(tmp_path):
    def put_notes(line: str) -> None:
        if (tmp_path / "out.steps").is_dir():
            (tmp_path / "out.steps" / "notes.txt").write_text("mine")

    run(Run(recipe(), tmp_path / "out", keep_steps=False, log=put_notes))
    assert (tmp_path / "out.steps" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_an_artifact_is_replaced_by_force_alone_and_a_finished_run_by_nothing(tmp_path):
    first = run(Run(recipe(), tmp_path / "out", keep_steps=False))
    time_ns = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    lines: list[str] = []
    again = run(Run(recipe(), tmp_path / "out", resume=True, log=lines.append))
    assert again["weights_sha256"] == first["weights_sha256"] and "out: unchanged, nothing to do" in lines
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == time_ns
    with pytest.raises(InputError, match="not this run's; give --force"):
        run(Run(recipe(SHARE), tmp_path / "out", resume=True))
    with pytest.raises(InputError, match="exists; give --force"):
        run(Run(recipe(SHARE), tmp_path / "out"))
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == time_ns
    other = run(Run(recipe(SHARE), tmp_path / "out", force=True, keep_steps=False))
    assert other["weights_sha256"] != first["weights_sha256"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_run_reads_is_never_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(Run(recipe(), Path("base/model"), keep_steps=False))
    shutil.copy("base/model/manifest.json", "base/manifest.json")  # the parent looks like an artifact, too
    (tmp_path / "link").symlink_to("base/model")
    before = tree(tmp_path)
    for model, output in (("base/model", "base/model"), ("base/model", "base"), ("link", "base/model")):
        with pytest.raises(InputError, match="holds the input"):
            run(Run(recipe(SHARE, model=model), Path(output), force=True))
    with pytest.raises(InputError, match="symbolic link"):
        run(Run(recipe(SHARE), Path("link"), force=True))
    weighted = recipe(SHARE, weights="base/model/model.safetensors")
    with pytest.raises(InputError, match="holds the input"):
        run(Run(weighted, Path("base/model"), force=True))
    assert tree(tmp_path) == before


def test_finished_steps_wait_for_resume_or_force(tmp_path):
    with pytest.raises(GuardMissed):
        run(Run(recipe(PRUNE, {"quantize": {"max_bytes": 10}}), tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out.steps").iterdir()) == [MARKER, "0-prune", "1-quantize.missed"]
    with pytest.raises(InputError, match="--resume goes on with it, --force starts anew"):
        run(Run(recipe(PRUNE, QUANTIZE), tmp_path / "out"))
    lines: list[str] = []
    run(Run(recipe(PRUNE, QUANTIZE), tmp_path / "out", resume=True, log=lines.append))
    assert any(line.startswith("0-prune: unchanged") for line in lines)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("model.safetensors", _cut), ("model.safetensors", _flip), ("model.safetensors", Path.unlink)]
    + [("manifest.json", _cut), ("report.json", _cut), ("report.json", Path.unlink)],
)
def test_a_damaged_finished_step_is_done_again(tmp_path, name, damage):
    run(Run(recipe(PRUNE, QUANTIZE), tmp_path / "out"))
    expected = weights(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    damage(tmp_path / "out.steps" / "0-prune" / name)
    lines: list[str] = []
    run(Run(recipe(PRUNE, QUANTIZE), tmp_path / "out", resume=True, log=lines.append))
    assert not any(line.startswith("0-prune: unchanged") for line in lines)
    found = weights(tmp_path / "out")
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    assert artifact.load(tmp_path / "out.steps" / "0-prune").module is not None


def test_two_runs_on_one_output_and_a_failed_run_leaves_no_folder(tmp_path):
    handle = locks.try_lock(tmp_path / ".out.lock")
    with pytest.raises(InputError, match="is in use by"):
        run(Run(recipe(), tmp_path / "out"))
    os.close(handle)
    (tmp_path / ".out.lock").unlink()
    with pytest.raises(InputError):
        run(Run(recipe(model="builtin:nothing"), tmp_path / "a" / "b" / "out"))
    assert not list(tmp_path.iterdir())


def test_recorded_times_decide_again(tmp_path, monkeypatch):
    """The report holds what was timed; with it another machine, however slow, decides alike."""
    from compresskit.decomposition.ranks import timing

    steps = [{"decompose": {"kind": "svd", "energy": 0.7, "objective": "weight"}}]
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(512, 512))\n"
        "    w = net[1].weight.data\n    w.copy_(w[:, :4] @ w[:4])\n    net.input_shape = (512,)\n    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    report = run(Run(recipe(*steps, model="net.py:make"), tmp_path / "first"))
    assert report["steps"][0]["timings"]
    expected = weights(tmp_path / "first")

    def never(*args, **more):
        raise AssertionError("timed again")

    monkeypatch.setattr(timing, "take_turns", never)
    for number, source in enumerate(("first", "first/report.json")):
        out = tmp_path / f"again{number}"
        run(Run(recipe(*steps, model="net.py:make", timings=source), out))
        found = weights(out)
        assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    for wrong in ("net.py", "nowhere"):
        with pytest.raises(InputError, match="timings '.*' is no artifact or report"):
            run(Run(recipe(*steps, model="net.py:make", timings=wrong), tmp_path / "wrong"))


def test_what_this_machine_timed_decides_again_until_it_is_timed_afresh(tmp_path, monkeypatch):
    from compresskit.decomposition.ranks import timing

    steps = [{"decompose": {"kind": "svd", "energy": 0.7, "objective": "weight"}}]
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    torch.manual_seed(1)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(256, 256))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESSKIT_CACHE", str(tmp_path / "cache"))
    given = {"model": "net.py:make", "input": ["256"]}
    run(Run(recipe(*steps, **given), tmp_path / "first"))
    timed = []
    monkeypatch.setattr(
        timing, "take_turns", lambda *a, turns=timing.take_turns, **k: timed.append(1) or turns(*a, **k)
    )
    report = run(Run(recipe(*steps, **given), tmp_path / "second"))
    assert report["steps"][0]["timings"] and not timed
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    run(Run(recipe(*steps, **given, timings="fresh"), tmp_path / "third"))
    assert timed


def _kills(tmp_path: Path, kind: str, tries: int) -> list[dict]:
    script = REPOSITORY / "benchmarks" / "house" / "kill_and_resume.py"
    command = [sys.executable, str(script), kind, "--tries", str(tries), "--seed", "1", "--log", str(tmp_path / "log")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("kind", "tries"),
    [("quick", 2), pytest.param("run", 1, marks=pytest.mark.slow), pytest.param("search", 1, marks=pytest.mark.slow)],
)
def test_a_run_killed_at_any_moment_resumes_to_equal_weights_and_leaves_nothing(tmp_path, kind, tries):
    rows = _kills(tmp_path, kind, tries)
    assert sum(row["killed"] for row in rows) >= tries  # it goes on until that many were really killed
    assert {row["rc"] for row in rows} == {0}
    assert all(row["equal"] or row["replayed"] for row in rows), rows
    assert all(row["left"] == [] for row in rows), rows
