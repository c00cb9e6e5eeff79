"""Keys change with what is in the files that a recipe names, and with nothing else."""

from __future__ import annotations

import json
import os

import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.resume.fingerprints import fingerprint, imported_files, named_paths
from compresskit.pipeline.resume.keys import data_key, input_paths, recorded_timings, step_keys


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a file of every kind that a recipe may name; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    written = {
        "net.py": "import layers\nfrom parts import block\ndef make(): ...\n",
        "layers.py": "from deeper import x\n",
        "deeper.py": "x = 1\n",
        "parts/__init__.py": "",
        "parts/block.py": "",
        "unrelated.py": "",
        "data.py": "import helper\ndef load(): ...\n",
        "helper.py": "",
        "metric.py": "def f(): ...\n",
        "images/train/a/1.png": "1",
        "images/val/a/2.png": "2",
        "hf/config.json": "{}",
        "hf/model.safetensors": "3",
        "w/model.safetensors.index.json": json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}),
        "w/1.safetensors": "4",
        "w/2.safetensors": "5",
        "w/3.safetensors": "6",
        "teacher/manifest.json": "{}",
        "pkg/__init__.py": "",
        "pkg/nets.py": "from . import other\n",
        "pkg/other.py": "",
    }
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def keys(**given):
    steps = given.pop("steps", [{"quantize": {}}])
    return step_keys(validate({"model": "net.py:make", "steps": steps, **given}))


DISTILL = [{"train": {}}, {"distill": {"teacher": "teacher", "student": "hf:hf"}}]


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({}, "net.py"),
        ({}, "layers.py"),
        ({}, "deeper.py"),
        ({}, "parts/block.py"),
        ({"data": "data.py:load"}, "data.py"),
        ({"data": "data.py:load"}, "helper.py"),
        ({"data": "imagefolder:images"}, "images/val/a/2.png"),
        ({"data": "imagefolder:images"}, "images/val/a/new.png"),
        ({"data": "digits", "data_arg": {"labels": "helper.py"}}, "helper.py"),
        ({"metric": "metric.py:f"}, "metric.py"),
        ({"model": "hf:hf"}, "hf/model.safetensors"),
        ({"weights": "w/model.safetensors.index.json"}, "w/2.safetensors"),
        ({"weights": "w/1.safetensors#model"}, "w/1.safetensors"),
        ({"model": "pkg.nets:make"}, "pkg/nets.py"),
        ({"model": "pkg.nets:make"}, "pkg/other.py"),
        ({"model": "teacher"}, "teacher/manifest.json"),
    ],
)
def test_a_changed_input_changes_every_key(project, given, changed):
    before = keys(**given)
    assert keys(**given) == before
    (project / changed).write_text("changed = 1")
    after = keys(**given)
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_a_changed_teacher_or_student_changes_only_the_steps_from_it_on(project):
    for name in ("teacher/manifest.json", "hf/config.json"):
        before = keys(data="digits", steps=DISTILL)
        (project / name).write_text("{ }")
        after = keys(data="digits", steps=DISTILL)
        assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False]


def test_what_is_not_named_does_not_count(project):
    given = {"data": "imagefolder:images", "weights": "w/1.safetensors"}
    before = keys(**given)
    for name in ("unrelated.py", "w/3.safetensors", "hf/config.json", "images/__pycache__/x.pyc"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("changed = 1")
    assert keys(**given) == before
    assert keys(**given, output="elsewhere", threads=1, workers=3) == before


def test_the_output_inside_a_named_folder_does_not_count(project):
    recipe = validate({"model": "hf:hf", "data": "imagefolder:.", "steps": ["quantize"]})
    before = step_keys(recipe, leave_out=(project / "out",))
    (project / "out").mkdir()
    (project / "out" / "x").write_text("x")
    assert step_keys(recipe, leave_out=(project / "out",)) == before


def test_large_files_count_by_size_and_time(project, monkeypatch):
    monkeypatch.setattr("compresskit.pipeline.resume.fingerprints._ALL_CONTENT_BYTES", 1)
    before = fingerprint(project / "images")
    path = project / "images" / "val" / "a" / "2.png"
    path.write_text("9")  # the same size
    os.utime(path, ns=(1, 1))
    assert fingerprint(project / "images") != before


def test_names_of_libraries_are_no_paths(project):
    (project / "resnet18").mkdir()
    (project / "digits").mkdir()
    given = {"model": "torchvision:resnet18", "data": "digits", "metric": "top1", "output": "images"}
    assert named_paths(given) == []
    assert [path.name for path in named_paths({"model": "hf", "data": "npz:helper.py"})] == ["hf", "helper.py"]
    assert named_paths({"model": "a\0b/c", "data": "x" * 5000 + "/", "metric": "/"}) == []


def test_modules_of_python_itself_are_no_inputs(project):
    (project / "text.csv").write_text("a,label\n1,0\n")
    assert [path.name for path in named_paths({"data": "csv:text.csv"})] == ["text.csv"]
    assert [path.name for path in named_paths({"data": "json.decoder:make"})] == []
    (project / "csv.py").write_text("def make(): ...\n")
    assert [path.name for path in named_paths({"model": "csv:make"})] == ["csv.py"]


def test_input_paths_are_all_of_a_recipes(project):
    recipe = validate({"model": "net.py:make", "data": "imagefolder:images", "steps": DISTILL})
    assert {path.name for path in input_paths(recipe)} == {"net.py", "images", "teacher", "hf"}


def test_imports_in_circles_and_broken_files_are_followed_no_further(project):
    (project / "a.py").write_text("import b\nimport torch\nfrom . import b\nfrom b import *\n")
    (project / "b.py").write_text("import a\nthis is no Python")
    assert {path.name for path in imported_files(project / "a.py")} == {"a.py", "b.py"}


def test_the_datas_key_is_its_own(project):
    first = validate({"model": "net.py:make", "data": "data.py:load", "steps": ["quantize"]}).options
    second = first.model_copy(update={"model": "hf:hf"})
    before = data_key(first)
    assert data_key(second) == before
    (project / "helper.py").write_text("changed = 1")
    assert data_key(first) != before


def test_timings_of_a_run_that_timed_nothing_are_refused(project):
    (project / "report.json").write_text(json.dumps({"steps": [{"technique": "prune", "timings": {}}]}))
    with pytest.raises(InputError, match="no step of that run was decided by measured times"):
        recorded_timings(".")
    (project / "report.json").write_text(json.dumps({"steps": [{"technique": "prune", "timings": {"a": 1}}]}))
    assert recorded_timings("report.json") == {"0-prune": {"a": 1}}
    assert recorded_timings(None) == {}
