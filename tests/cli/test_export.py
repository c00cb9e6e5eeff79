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
