"""Schemas of outputs hold for what the commands print."""

from __future__ import annotations

import json

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
    }
    for name, command in commands.items():
        code, printed, err = invoke(*command, "--json")
        assert code == 0, (name, err)
        jsonschema.validate(json.loads(printed), output_schema(name))
        if isinstance(json.loads(printed), dict):  # the schema asks for something
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({}, output_schema(name))
