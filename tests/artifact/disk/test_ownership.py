"""What may be replaced: only what carries our marker, and never what a run reads or a user stands in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from compresskit.artifact.disk import files, ownership
from compresskit.core.errors import InputError

MANIFEST = {"format_version": 1, "weights_sha256": "0", "edits": [], "source": {}}


def _artifact(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    return folder


def test_an_artifact_and_an_empty_folder_may_be_replaced(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (_artifact(tmp_path / "artifact"), tmp_path / "empty"):
        before = sorted(folder.iterdir())
        ownership.check_replaceable(folder)  # raises if it may not
        assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "content", ['{"format_version": 1}', '{"manifest_version": 3}', "[]", "{", "[" * 100_000, "\xff"], ids=repr
)
def test_other_manifests_are_not_ours(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content[:100] if len(content) < 100 else content, encoding="latin-1")
    with pytest.raises(InputError, match="not written by compresskit"):
        ownership.check_replaceable(tmp_path)


def test_a_folder_with_an_input_in_it_is_never_replaced(tmp_path):
    folder = _artifact(tmp_path / "artifact")
    (tmp_path / "link").symlink_to(folder)
    for path in (folder, folder / "model.safetensors", tmp_path / "link" / "net.py", folder / "deep" / "er"):
        with pytest.raises(InputError, match="holds the input"):
            ownership.check_replaceable(folder, [path])
    ownership.check_replaceable(folder, [tmp_path, tmp_path / "artifact2" / "net.py"])


@pytest.mark.parametrize("listed", [{}, {"files": ["recipe.yaml"]}, {"files": [[], {}]}, {"files": 3}], ids=str)
def test_files_of_somebody_else_in_an_artifact_are_never_deleted(tmp_path, listed):
    folder = _artifact(tmp_path / "artifact")
    manifest = {**MANIFEST, "source": {"path": "net.py"}, **listed}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for name in ("model.safetensors", "report.json", "report.html", "recipe.json", "net.py", ".DS_Store"):
        (folder / name).write_text("ours")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "net.cpython-311.pyc").write_bytes(b"")
    ownership.check_replaceable(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"also holds 'notes.txt', not written by compresskit") as error:
        ownership.check_replaceable(folder)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="'notes.txt'"), files.replacing(folder, force=True) as new:
        (new / "fresh").write_text("new")
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "notes.txt").unlink()
    (folder / "__pycache__" / "thesis.tex").write_text("mine")
    for number in range(4):
        (folder / f"run{number}").mkdir()
    with pytest.raises(InputError, match=r"also holds '__pycache__', 'run0', 'run1' and 2 more"):
        ownership.check_replaceable(folder)


def test_files_that_a_technique_made_are_ours_whether_the_manifest_lists_them_or_not(tmp_path):
    folder = _artifact(tmp_path / "artifact")  # as earlier releases wrote them
    (folder / "search.png").write_bytes(b"")
    ownership.check_replaceable(folder)
    (folder / "manifest.json").write_text(json.dumps({**MANIFEST, "files": ["new_plot.png"]}))
    (folder / "new_plot.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"also holds 'search.png', not"):
        ownership.check_replaceable(folder)
    (folder / "search.png").unlink()
    ownership.check_replaceable(folder)


def test_links_files_and_the_current_folder_are_never_replaced(tmp_path, monkeypatch):
    folder = _artifact(tmp_path / "artifact")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    for name, says in {"link": "symbolic link", "dangling": "symbolic link", "file": "not a folder"}.items():
        with pytest.raises(InputError, match=says):
            ownership.check_replaceable(tmp_path / name)
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    with pytest.raises(InputError, match="is or holds the current folder"):
        ownership.check_replaceable(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(folder))
    with pytest.raises(InputError, match="is or holds the home folder"):
        ownership.check_replaceable(folder)
    for place in ("/", "/proc"):
        with pytest.raises(InputError, match="never replaced"):
            ownership.check_replaceable(Path(place))


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "x" * 201, "é" * 101, "/", "/tmp/.."])
def test_names_that_cannot_be_written_are_refused(name):
    with pytest.raises(InputError, match="^output "):
        ownership.absolute(name)


def test_a_file_of_an_input_folder_is_never_replaced_and_one_put_beside_an_artifact_is(tmp_path):
    artifact, photos = _artifact(tmp_path / "artifact"), tmp_path / "photos"
    (photos / "cats").mkdir(parents=True)
    own = [artifact / "manifest.json", artifact / "model.safetensors", photos / "cats" / "1.png"]
    beside = artifact / "model.onnx"
    for path in (*own[1:], beside):
        path.write_text("bytes")
    for path in own:
        with pytest.raises(InputError, match="is an input of this command, and is never replaced"):
            ownership.check_file(path, force=True, inputs=[artifact, photos])
        ownership.check_file(path, force=True, inputs=[tmp_path / "elsewhere"])
    ownership.check_file(beside, force=True, inputs=[artifact, photos])
    assert beside.read_text() == "bytes"


def test_paths_are_made_absolute_without_following_links(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ownership.absolute("a/../b/") == tmp_path / "b"
    (tmp_path / "link").symlink_to("/")
    assert ownership.absolute("link/x") == tmp_path / "link" / "x"
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(InputError, match="current folder was deleted"):
        ownership.absolute("x")
    assert ownership.absolute(tmp_path / "y") == tmp_path / "y"


@pytest.mark.parametrize("swap", ["at once", "in two steps"])
def test_the_new_folder_takes_the_place_of_the_old_one(tmp_path, monkeypatch, swap):
    if swap == "in two steps":
        monkeypatch.setattr(files, "exchanged", lambda first, second: False)
    old = _artifact(tmp_path / "out")
    inode = old.stat().st_ino
    with files.replacing(old, force=True) as new:
        (new / "fresh").write_text("new")
        assert json.loads((old / "manifest.json").read_text()) == MANIFEST  # until the end the old one stands
    assert [path.name for path in old.iterdir()] == ["fresh"] and old.stat().st_ino != inode
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_block_leaves_the_old_folder_and_nothing_else(tmp_path):
    old = _artifact(tmp_path / "out")
    for error in (ValueError("x"), KeyboardInterrupt(), OSError(28, "No space left on device")):
        with pytest.raises((ValueError, KeyboardInterrupt, InputError)), files.replacing(old, force=True) as new:
            (new / "fresh").write_text("new")
            raise error
    assert json.loads((old / "manifest.json").read_text()) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_appeared_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(InputError, match="exists"), files.replacing(tmp_path / "out") as new:
        (new / "fresh").write_text("new")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("mine")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def _in_child(function) -> None:
    """Run something in a process that then dies at once, without tidying up."""
    child = os.fork()
    if not child:
        try:
            function()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def test_what_a_killed_process_left_is_swept_away_and_nothing_else(tmp_path):
    target = tmp_path / "o*t"  # a name that would match others as a pattern

    def die():
        with files.replacing(target) as new:
            (new / "half").write_text("x")
            os._exit(0)

    _in_child(die)
    (left,) = tmp_path.iterdir()
    (tmp_path / ".out.12345678.compresskit").mkdir()  # another output's
    (tmp_path / ".o*t.12345678.compresskit").mkdir()  # killed before it was marked
    foreign = tmp_path / ".o*t.abcdefgh.compresskit"
    foreign.mkdir()
    (foreign / "mine").write_text("mine")
    with files.replacing(target) as new:
        (new / "whole").write_text("x")
        assert not left.exists()
    kept = {".out.12345678.compresskit", foreign.name, "o*t"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    with files.replacing(tmp_path / "second"):  # a live staging folder is not swept
        inside = {path.name for path in tmp_path.iterdir()}
        files.sweep(tmp_path / "second")
        assert inside == {path.name for path in tmp_path.iterdir()}


def test_a_kill_between_two_renames_gives_the_old_folder_back(tmp_path, monkeypatch):
    old = _artifact(tmp_path / "out")
    rename = Path.rename

    def die(self, target):
        rename(self, target)
        if self == old:
            os._exit(0)

    def replace():
        monkeypatch.setattr(files, "exchanged", lambda first, second: False)
        monkeypatch.setattr(Path, "rename", die)
        with files.replacing(old, force=True) as new:
            (new / "fresh").write_text("new")

    _in_child(replace)
    assert not old.exists()
    files.sweep(old)
    assert json.loads((old / "manifest.json").read_text()) == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with pytest.raises(ValueError, match="x"), files.replacing_file(path) as new:
        new.write_text("half")
        raise ValueError("x")
    assert path.read_text() == "old"
    with files.replacing_file(path) as new:
        new.write_text("new")
    assert path.read_text() == "new" and [one.name for one in tmp_path.iterdir()] == ["model.onnx"]
