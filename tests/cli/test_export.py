"""export through the command line."""

from __future__ import annotations

import json

import pytest


def test_export_writes_runs_and_compares(invoke, digits_model):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    assert (
        invoke(
            "quantize",
            str(digits_model),
            "--scheme",
            "int8-static",
            "--data",
            "digits",
            "-o",
            "q",
            "-q",
            "--latency-rounds",
            "0",
        )[0]
        == 0
    )
    code, out, err = invoke("export", "q", "--data", "digits", "--rounds", "2", "-o", "deep/m.onnx", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["runtime"] == "onnxruntime"
    assert found["agreement"] > 0.99
    assert found["top1_in_runtime"] > 0.9
    code, _, err = invoke("export", "q", "-o", "deep/m.onnx")
    assert code == 2
    assert "--force" in err


def test_the_ending_of_the_output_says_the_format(invoke):
    code, out, err = invoke("export", "builtin:digits_cnn_small", "-o", "net.pt2", "--json")
    assert code == 0, err
    assert json.loads(out)["runtime"] == "inductor"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--runtime", "inductor"), "does not read onnx"),
        (("--format", "pt2", "--opset", "20"), "would be ignored"),
    ],
)
def test_export_refuses(invoke, arguments, says):
    code, _, err = invoke("export", "builtin:lenet5", *arguments)
    assert code == 2
    assert says in err


OWN = """
import torch

def listing(program, path, options):
    path.write_text(str(program))
    return ["written as text"]

listing.runtime = "own.py:recompiled"

def recompiled(exported):
    assert exported.path.is_file()
    return exported.program.module()

def nothing(program, path, options):
    pass

def spoken(program, path, options):
    path.write_text("")
    return "done"

def no_module(exported):
    return None

def shapeless(exported):
    return torch.nn.Flatten(0)

def texts(exported):
    class Texts(torch.nn.Module):
        def forward(self, *inputs):
            return "ten"
    return Texts()
"""


@pytest.mark.integration
def test_an_exporter_and_a_runtime_of_the_users_own(invoke, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    code, out, err = invoke("export", "builtin:lenet5", "--format", "own.py:listing", "--rounds", "2", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["path"], found["format"], found["runtime"]) == (
        "runs/model.listing",
        "own.py:listing",
        "own.py:recompiled",
    )
    assert found["agreement"] == 1.0 and found["notes"] == "written as text"
    assert (tmp_path / "runs" / "model.listing").read_text().startswith("ExportedProgram")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--format", "own.py:nothing"), "must write the file"),
        (("--format", "own.py:spoken"), "must return a list of notes or None, and returned str"),
        (
            ("--format", "own.py:listing", "--runtime", "own.py:no_module"),
            "must return an nn.Module, and returned NoneType",
        ),
        (("--format", "own.py:listing", "--runtime", "own.py:texts"), "forward returned str, not a tensor"),
        (("--format", "own.py:listing", "--runtime", "own.py:shapeless"), "where the model returns [1, 10]"),
        (("--format", "own.py:listing", "--runtime", "inductor"), "does not read own.py:listing"),
        (("--format", "own.py:missing"), "own.py"),
        (("--format", "own.py:no_module"), "must take (program, path, options)"),
    ],
)
def test_rows_that_do_not_do_what_theirs_must_are_refused(invoke, tmp_path, arguments, says):
    (tmp_path / "own.py").write_text(OWN)
    code, _, err = invoke("export", "builtin:lenet5", *arguments, "-o", "m.bin")
    assert code == 2, err
    assert says in err
    assert not (tmp_path / "m.bin").exists()
