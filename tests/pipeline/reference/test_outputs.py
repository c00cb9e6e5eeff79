"""Schemas of outputs hold for what the commands print."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from compresskit.core.errors import InputError
from compresskit.pipeline.reference.outputs import OUTPUTS, SCHEMA_VERSION, output_schema

MODEL = ("builtin:digits_cnn_small", "--data", "digits", "--latency-rounds", "0")


def test_each_schema_is_one_and_carries_its_version():
    jsonschema = pytest.importorskip("jsonschema")
    for name in OUTPUTS:
        schema = output_schema(name)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["$id"] == f"compresskit/{name}/{SCHEMA_VERSION}"
    with pytest.raises(InputError, match="did you mean 'report'"):
        output_schema("reprot")


def test_the_page_for_programs_names_each_output():
    page = (Path(__file__).parents[3] / "docs" / "machine-use.md").read_text()
    assert [name for name in OUTPUTS if f"`{name}`" not in page] == []


@pytest.mark.slow
def test_what_the_commands_print_holds(invoke, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    out = str(tmp_path / "out")
    commands = {
        "plan": ("prune", *MODEL, "--ratio", "0.5", "--dry-run"),
        "report": ("prune", *MODEL, "--ratio", "0.5", "--effort", "fast", "-o", out),
        "inspect": ("inspect", out),
        "evaluate": ("evaluate", out, "--data", "digits"),
        "diff": ("diff", "builtin:digits_cnn_small", out, "--latency-rounds", "0"),
        "verify": ("verify", out),
        "compare": ("compare", out),
        "doctor": ("doctor",),
        "bench": ("bench", out, "--data", "digits", "--eval-limit", "20", "--rounds", "2"),
        "predict": ("predict", out, str(tmp_path / "one.npy")),
        "explain": ("explain", "ratio"),
    }
    if importlib.util.find_spec("onnxscript") and importlib.util.find_spec("onnxruntime"):
        commands["export"] = ("export", out, "--rounds", "2", "-o", str(tmp_path / "net.onnx"))
        commands["pack"] = ("pack", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "packed"))
    np.save(tmp_path / "one.npy", np.zeros((1, 8, 8), np.float32))
    for name, command in commands.items():
        code, printed, err = invoke(*command, "--json")
        assert code == 0, (name, err)
        jsonschema.validate(json.loads(printed), output_schema(name))
        # the schema asks for something; rows of compare are named by what was measured
        if name != "compare":
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({} if isinstance(json.loads(printed), dict) else [{}], output_schema(name))
