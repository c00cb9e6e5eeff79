"""The recipe step `export`: its file beside the artifact, its figures in the report, its guards."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from compresskit.artifact import artifact
from compresskit.core.errors import GuardMissed, InputError
from compresskit.pipeline.checks.preflight import checked_context
from compresskit.pipeline.plan import make_plan
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run

pytestmark = pytest.mark.integration

EAGER = {"format": "pt2", "runtime": "eager", "rounds": 1, "samples": 8}
NET = """
import torch
from torch import nn

class Branching(nn.Module):
    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        hidden = self.first(x.flatten(1))
        return self.second(hidden if hidden.sum() > 0 else -hidden)

def branching():
    return Branching()

def plain():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    net.input_shape = (1, 8, 8)
    return net
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)

    def make(*steps, model="net.py:plain", **more):
        content = {"model": model, "data": "digits", "latency_rounds": 0, "eval_limit": 64, **more}
        return validate(content | {"steps": list(steps)})

    return make


def test_files_lie_beside_the_artifact_and_later_steps_go_on_from_the_model(recipe, tmp_path):
    steps = ({"export": EAGER}, {"prune": {"ratio": 0.5}}, {"export": {**EAGER, "file": "small.pt2"}})
    report = run(Run(recipe(*steps), tmp_path / "out"))
    first, pruned, last = report["steps"]
    out = tmp_path / "out"
    assert artifact.read_manifest(out)["files"] == ["model.pt2", "small.pt2"]
    for name, step in (("model.pt2", first), ("small.pt2", last)):
        assert step["measurement"]["size_bytes"] == step["facts"]["file_bytes"] == (out / name).stat().st_size
        assert step["measurement"]["latency"]["model_ms"] > 0
        assert step["measurement"]["metric"]["samples"] == 64
        assert step["facts"]["top1_in_runtime"] == step["measurement"]["metric"]["value"]
        assert step["labels"]["latency"].startswith("simulated: eager")
    assert first["measurement"]["parameters"] == report["original"]["parameters"]
    assert pruned["measurement"]["parameters"] == last["measurement"]["parameters"] < report["original"]["parameters"]
    model = artifact.load(out, trust_source=True).module
    inputs = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(torch.export.load(out / "small.pt2").module()(inputs), model(inputs))


def test_a_resume_takes_the_file_unless_the_step_changed(recipe, tmp_path):
    lines: list[str] = []
    run(Run(recipe({"export": EAGER}), tmp_path / "out"))
    shutil.rmtree(tmp_path / "out")
    report = run(Run(recipe({"export": EAGER}), tmp_path / "out", resume=True, log=lines.append))
    assert any("0-export: unchanged, taken from" in line for line in lines)
    assert report["steps"][0]["facts"]["file"] == "model.pt2"
    assert (tmp_path / "out" / "model.pt2").is_file()
    lines.clear()
    changed = recipe({"export": {**EAGER, "threads": 2}})
    report = run(Run(changed, tmp_path / "out", resume=True, log=lines.append))
    assert not any("unchanged" in line for line in lines)
    assert report["steps"][0]["facts"]["threads"] == 2


@pytest.mark.parametrize(
    ("guard", "says"),
    [
        ({"max_bytes": "1kb"}, r"step 0-export: model.pt2 takes .* bytes, max_bytes is 1000"),
        ({"min_speedup": 1000.0}, r"step 0-export: speed-up is .*x, min_speedup is 1000"),
    ],
)
def test_guards_are_about_the_file_in_its_runtime(recipe, tmp_path, guard, says):
    with pytest.raises(GuardMissed, match=says):
        run(Run(recipe({"export": EAGER | guard}), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_without_rounds_nothing_is_timed_and_what_needs_times_is_refused(recipe, tmp_path):
    step = run(Run(recipe({"export": EAGER | {"rounds": 0}}), tmp_path / "out"))["steps"][0]
    assert step["measurement"]["latency"] is None and "latency_ms" not in step["facts"]
    assert step["facts"]["agreement"] == 1.0 and step["measurement"]["size_bytes"] > 0
    line = problems(recipe({"export": EAGER | {"rounds": 0, "min_speedup": 2}}, latency_rounds=12))
    assert line == "export: min_speedup needs measured latency, and rounds is 0; set it to e.g. 12"


def test_max_drop_is_about_the_metric_in_the_runtime(recipe, tmp_path):
    (tmp_path / "zero.py").write_text(
        "import torch\n\nclass Wrong(torch.nn.Module):\n    def forward(self, x):\n"
        "        return torch.nn.functional.one_hot(torch.full((len(x),), 9), 10).float()\n\n"
        "def wrong(exported):\n    return Wrong()\n"
    )
    train = {"train": {"epochs": 2, "lr": 0.1}}
    steps = (train, {"export": {**EAGER, "runtime": "zero.py:wrong", "max_drop": 0.1}})
    with pytest.raises(GuardMissed, match="step 1-export: top1 fell by 0.*max_drop is 0.1; the last good .*0-train"):
        run(Run(recipe(*steps), tmp_path / "out"))


def problems(checked) -> str:
    with pytest.raises(InputError) as refusal:
        checked_context(checked, lambda line: None)
    return str(refusal.value)


def test_what_an_export_would_refuse_is_said_before_work(recipe, tmp_path):
    prune = {"prune": {"ratio": 0.5}}
    assert "export: torch.export cannot trace this model" in problems(
        recipe({"export": EAGER}, model="net.py:branching")
    )
    found = problems(recipe(prune, {"export": EAGER}, model="net.py:branching"))
    assert "steps.1 (export): torch.export cannot trace this model" in found
    found = problems(recipe({"export": EAGER}, prune, {"export": EAGER}))
    assert found == "steps.2 (export): steps.0 (export) writes 'model.pt2', too; give one of them another file"


def test_a_dry_run_shows_the_step_and_writes_nothing(recipe, tmp_path):
    plan = make_plan(recipe({"prune": {"ratio": 0.5}}, {"export": EAGER}), output=tmp_path / "out")
    original, pruned, exported = plan["plan"]
    assert exported["step"] == "export" and exported["macs"] == pruned["macs"] < original["macs"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a/b.onnx", "", ".hidden", "manifest.json", "net.py", "model.safetensors"])
def test_a_file_is_a_plain_name_of_its_own(recipe, name):
    with pytest.raises(InputError, match="file"):
        recipe({"export": {**EAGER, "file": name}})


def test_json_has_the_figures_of_the_file(invoke, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "r.yaml").write_text(json.dumps({"model": "net.py:plain", "steps": [{"export": EAGER}]}))
    code, out, err = invoke("run", "r.yaml", "-o", "out", "--json")
    assert code == 0, err
    facts = json.loads(out)["steps"][0]["facts"]
    assert facts["format"] == "pt2" and facts["agreement"] == 1.0
    assert facts["file_bytes"] == (tmp_path / "out" / "model.pt2").stat().st_size
