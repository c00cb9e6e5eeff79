"""A model is judged as the steps of a run judge it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import compresskit


@pytest.mark.integration
def test_evaluate_says_what_a_run_would(invoke, tmp_path):
    trained = compresskit.train("builtin:digits_cnn_small", data="digits", epochs=1, latency_rounds=0)
    trained.save(tmp_path / "net")
    code, out, _ = invoke("evaluate", str(tmp_path / "net"), "--data", "digits", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["metric"] == trained.report["steps"][-1]["measurement"]["metric"]
    assert found["macs"] == trained.report["steps"][-1]["measurement"]["macs"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net"]
    code, out, _ = invoke("evaluate", str(tmp_path / "net"), "--data", "digits", "--metric", "top5", "-q")
    assert code == 0
    assert out.startswith("top5 0.") or out.startswith("top5 1.")
    assert "on 360 examples" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "needs data"),
        (("--data", "digits", "--metric", "tpo1"), "did you mean 'top1'"),
        (("--data", "x"), "data 'x'"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(arguments, says, invoke):
    code, out, err = invoke("evaluate", "builtin:digits_cnn_small", *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert says in err


def test_what_is_doubtful_is_said_as_a_run_says_it(invoke, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 1, 8, 8)).astype(np.float32), np.arange(40) % 3
    np.savez(tmp_path / "few.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    code, out, err = invoke("evaluate", "builtin:digits_cnn_small", "--data", f"npz:{tmp_path}/few.npz", "--json")
    warnings = json.loads(out)["warnings"]
    assert code == 0 and len(warnings) == 3
    for doubt, line in zip(("are random", "40 examples", "10 outputs and the data 3 classes"), warnings, strict=True):
        assert doubt in line and f"warning: {line}" in err.replace("\n", " ")
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    _, out, _ = invoke("evaluate", f"{tmp_path}/net.py:make", "--data", "digits", "--json", "-q")
    (line,) = json.loads(out)["warnings"]
    assert "no better than chance among 10 classes" in line
