"""Formats and runtimes: which belong together, and those of the user's own."""

import pytest
from pydantic import ValidationError

from compresskit.core.errors import InputError
from compresskit.export.options import ExportOptions

OWN = """
import torch

def text(program, path, options):
    path.write_text(str(program))
    return ["written as text"]

def named(program, path, options):
    path.write_text(str(program))

named.suffix, named.runtime = ".listing", "own.py:recompiled"

def recompiled(exported):
    return exported.program.module()

recompiled.reads = ("own.py:text",)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "runtime", "suffix", "packages"),
    [
        ({}, "onnxruntime", ".onnx", {"onnx", "onnxscript", "onnxruntime"}),
        ({"runtime": "openvino"}, "openvino", ".onnx", {"onnx", "onnxscript", "openvino"}),
        ({"format": "pt2"}, "inductor", ".pt2", {"torchao.quantization.pt2e.lowering"}),
        ({"format": "pt2", "runtime": "eager"}, "eager", ".pt2", set()),
        ({"format": "own.py:text"}, "eager", ".text", set()),
        ({"format": "own.py:named"}, "own.py:recompiled", ".listing", set()),
        ({"format": "own.py:text", "runtime": "own.py:recompiled"}, "own.py:recompiled", ".text", set()),
    ],
)
def test_rows_say_runtime_suffix_and_packages(own, given, runtime, suffix, packages):
    options = ExportOptions(**given)
    options.check_pair()
    assert (options.chosen_runtime(), options.suffix(), set(options.packages())) == (runtime, suffix, packages)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"format": "pt2", "runtime": "openvino"}, "does not read pt2; choose inductor or eager"),
        ({"format": "onnx", "runtime": "inductor"}, "does not read onnx; choose onnxruntime or eager or openvino"),
        ({"keep": "fastest", "rounds": 0}, "decided by timing, which rounds 0 leaves out"),
        ({"format": "tflite"}, "unknown format 'tflite'.*name your own as file.py:function"),
    ],
)
def test_what_is_known_to_misfit_is_refused_with_the_options(given, says):
    with pytest.raises(ValidationError, match=says):
        ExportOptions(**given)


def test_what_only_the_users_own_code_knows_is_checked_when_that_may_run(own):
    options = ExportOptions(format="pt2", runtime="own.py:recompiled")
    with pytest.raises(InputError, match="runtime 'own.py:recompiled' does not read pt2; choose inductor or eager"):
        options.check_pair()


@pytest.mark.parametrize("given", ["batch,length", ["batch", "length"], ["batch, length"]])
def test_dimensions_are_words_with_commas_or_a_list(given):
    assert ExportOptions(dynamic=given).dynamic == ["batch", "length"]
    assert ExportOptions(dynamic="none").dynamic == [] and ExportOptions().dynamic == ["batch"]


@pytest.mark.parametrize(
    "given, match",
    [
        ({"dynamic": "heigth"}, "unknown dimension 'heigth'.*height"),
        ({"dynamic": "batch", "format": "gguf"}, "dynamic would be ignored"),
        ({"with_past": True, "dynamic": "length"}, "dynamic would be ignored: with_past"),
        ({"with_past": True, "format": "pt2"}, "with_past would be ignored"),
    ],
)
def test_dynamic_options_that_make_no_sense_are_refused(given, match):
    with pytest.raises(ValueError, match=match):
        ExportOptions(**given)
