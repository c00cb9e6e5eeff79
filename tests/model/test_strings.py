"""Model strings that name nothing are refused before anything is built."""

from __future__ import annotations

import pytest

from compresskit.core.errors import InputError
from compresskit.model.strings import check_named, refuse_change, split


@pytest.mark.parametrize(
    ("string", "said"),
    [
        ("builtin:digits_cn", "unknown builtin model 'digits_cn'; did you mean 'digits_cnn'?"),
        ("digits_cnn", "model 'digits_cnn' is none of the known forms; did you mean 'builtin:digits_cnn'?"),
        ("torchvison:resnet18", "model 'torchvison:resnet18' is none of the known forms; did you mean 'torchvision"),
        ("runs/bse", "model 'runs/bse' does not exist; a model is one of torchvision:NAME"),
        ("nowhere.pt2", "model 'nowhere.pt2' does not exist"),
        ("nets.py:make", "model 'nets.py:make': file 'nets.py' does not exist; did you mean 'net.py'?"),
    ],
)
def test_what_names_nothing_is_refused_with_the_nearest(string, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").touch()
    with pytest.raises(InputError) as error:
        check_named(string)
    assert str(error.value).startswith(said)


def test_forms_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").touch()
    assert split("timm:resnet18") == ("timm", "", "resnet18")
    assert split("net.py:make") == ("file", "net.py", "make")
    assert split("package.net:make") == ("module", "package.net", "make")
    check_named("in-memory:net")


def test_a_folder_is_a_model_only_with_a_manifest(tmp_path):
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").touch()
    with pytest.raises(InputError, match="holds no manifest.json; name the output of a finished command"):
        check_named(str(tmp_path))
    with pytest.raises(InputError, match=f"for a transformers model say 'hf:{tmp_path}/lm'"):
        check_named(f"{tmp_path}/lm")
    (tmp_path / "manifest.json").touch()
    for string in (str(tmp_path), f"{tmp_path}/manifest.json"):
        check_named(string)  # whoever opens it says what is wrong with it


def test_an_exported_program_is_never_changed():
    refuse_change("runs/net")
    with pytest.raises(InputError, match=r"student 'net\.pt2' is an exported program"):
        refuse_change("net.pt2", "student")
